"""Whole-clip and streaming passes against diffusers' own, in double precision."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from hypothesis import given, settings
from hypothesis import strategies as st
from small_world import random_base
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from wan_alpha.models.base import spatial_stride, temporal_stride
from wan_alpha.models.streaming import FeatureCache, chunks, decode_chunks, encode_features_chunk
from wan_alpha.models.whole_clip import (
    Runner,
    decode_clip,
    encode_features,
    latent_mean,
    latent_moments,
    run_checkpointed,
    run_plain,
)
from wan_alpha.training.memory import LiveBytes

FORMS = ["wan21", "wan22"]


@pytest.fixture(scope="module", params=FORMS)
def vae(request: pytest.FixtureRequest) -> AutoencoderKLWan:
    return loud(random_base(request.param, torch.float64))


@torch.no_grad()
def loud(vae: AutoencoderKLWan) -> AutoencoderKLWan:
    """Decoded values go past [-1, 1], where diffusers clamps and this project does not."""
    vae.decoder.conv_out.weight.mul_(100)
    return vae


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def video(frames: int, height: int = 16, width: int = 16) -> Tensor:
    return noise(1, 3, frames, height, width).tanh()


@torch.no_grad()
def assert_equal_to_diffusers(vae: AutoencoderKLWan, x: Tensor) -> None:
    posterior = vae.encode(x).latent_dist
    mean, logvar = latent_moments(vae, encode_features(vae, x))
    assert posterior.mean.shape[2] == 1 + (x.shape[2] - 1) // 4
    torch.testing.assert_close(mean, posterior.mean, rtol=0, atol=1e-12)
    torch.testing.assert_close(logvar, posterior.logvar, rtol=0, atol=1e-12)
    z = 3 * noise(*mean.shape, seed=1)
    own = decode_clip(vae, z)
    assert own.shape == x.shape
    assert own.abs().max() > 1  # unclamped: diffusers clamps, and a clamp kills gradients
    torch.testing.assert_close(own.clamp(-1, 1), vae.decode(z).sample, rtol=0, atol=1e-12)


@pytest.mark.parametrize("frames", [1, 5, 9, 17])
def test_whole_clip_passes_equal_diffusers(vae: AutoencoderKLWan, frames: int) -> None:
    assert_equal_to_diffusers(vae, video(frames))


@settings(max_examples=6, deadline=None)
@given(frames=st.sampled_from([1, 5, 9, 13]), height=st.integers(1, 3), width=st.integers(1, 3))
def test_whole_clip_passes_equal_diffusers_for_any_size(frames: int, height: int, width: int) -> None:
    for form in FORMS:
        assert_equal_to_diffusers(loud(random_base(form, torch.float64)), video(frames, 8 * height, 8 * width))


def test_strides_of_both_forms(vae: AutoencoderKLWan) -> None:
    assert (temporal_stride(vae), spatial_stride(vae)) == (4, 8)


class Convolutions(TorchDispatchMode):
    """Counts forward convolutions that are computed."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.ops.aten.convolution.default
        return func(*args, **(kwargs or {}))


def reconstruct(base: AutoencoderKLWan, x: Tensor, run: Runner) -> Tensor:
    return decode_clip(base, latent_mean(base, encode_features(base, x, run)), run).square().mean()


@pytest.mark.parametrize("form", FORMS)
def test_checkpointing_changes_no_bit_of_the_gradient_and_keeps_less(form: str) -> None:
    base, x = random_base(form), video(9, 16, 16).float()
    base.requires_grad_(True)
    gradients, kept = [], []
    for run in (run_plain, run_checkpointed):
        base.zero_grad()
        with LiveBytes() as live:
            loss = reconstruct(base, x, run)
        kept.append(live.now)
        loss.backward()
        gradients.append({n: p.grad.clone() for n, p in base.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    assert len(gradients[0]) > 50
    assert all(torch.equal(gradients[0][n], gradients[1][n]) for n in gradients[0])
    assert kept[1] < kept[0] / 3


def test_checkpointing_computes_no_convolution_twice() -> None:
    base, counts = random_base("wan21"), []
    base.requires_grad_(True)
    for run in (run_plain, run_checkpointed):
        with Convolutions() as counted:
            reconstruct(base, video(9, 16, 16).float(), run).backward()
        counts.append(counted.count)
    assert counts[1] == counts[0] > 50


@torch.no_grad()
def test_streaming_equals_whole_clip(vae: AutoencoderKLWan) -> None:
    x = video(13)
    cache = FeatureCache(vae.encoder)
    streamed = torch.cat([encode_features_chunk(vae, x[:, :, s], cache) for s in chunks(13)], dim=2)
    torch.testing.assert_close(streamed, encode_features(vae, x), rtol=0, atol=1e-12)
    z = latent_mean(vae, streamed)
    torch.testing.assert_close(torch.cat(list(decode_chunks(vae, z)), dim=2), decode_clip(vae, z), rtol=0, atol=1e-12)


@torch.no_grad()
def test_the_future_changes_nothing(vae: AutoencoderKLWan) -> None:
    x = video(13)
    other = x.clone()
    other[:, :, 5:] = video(8) * 0.3
    before, after = latent_mean(vae, encode_features(vae, x)), latent_mean(vae, encode_features(vae, other))
    torch.testing.assert_close(after[:, :, :2], before[:, :, :2], rtol=0, atol=1e-13)
    assert (after[:, :, 2:] - before[:, :, 2:]).abs().amax((0, 1, 3, 4)).min() > 1e-6
    frames, changed = (
        decode_clip(vae, before),
        decode_clip(vae, torch.cat([before[:, :, :2], -before[:, :, 2:]], dim=2)),
    )
    torch.testing.assert_close(changed[:, :, :5], frames[:, :, :5], rtol=0, atol=1e-13)
    assert (changed[:, :, 5:] - frames[:, :, 5:]).abs().amax((0, 1, 3, 4)).min() > 1e-6


@torch.no_grad()
def test_the_past_that_streaming_carries_does_not_grow(vae: AutoencoderKLWan) -> None:
    def carried(cache: FeatureCache) -> int:
        storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors(cache)}
        return sum(storages.values())

    def tensors(cache: FeatureCache) -> list[Tensor]:
        return [t for t in cache.features if isinstance(t, Tensor)]

    cache, sizes, x = FeatureCache(vae.encoder), [], video(33)
    for s in chunks(33):
        encode_features_chunk(vae, x[:, :, s], cache)
        sizes.append(carried(cache))
    assert sizes[2] > 0
    assert len(set(sizes[2:])) == 1
