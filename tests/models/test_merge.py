"""The feature merge block: its exact start, its size, its shape in time."""

from __future__ import annotations

import pytest
import torch
from small_world import random_base
from torch import Tensor

from wan_alpha.models.alpha_vae import AdapterSpec, AlphaVAE
from wan_alpha.models.merge import FeatureMergeBlock, build_merge_block
from wan_alpha.models.streaming import FeatureCache
from wan_alpha.models.whole_clip import encode_features, latent_mean
from wan_alpha.rendering import hard_render

PINK = (1.0, -1.0, 1.0)


def clip(frames: int = 9, side: int = 16, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    rgb = torch.rand(2, 3, frames, side, side, generator=generator, dtype=torch.float64) * 2 - 1
    alpha = torch.rand(2, 1, frames, side, side, generator=generator, dtype=torch.float64)
    return rgb, (alpha * 1.5 - 0.25).clamp(0, 1)


def test_the_paper_s_block_has_the_published_number_of_parameters() -> None:
    with torch.device("meta"):
        block = FeatureMergeBlock(features=384, z_dim=16)
    assert sum(p.numel() for p in block.parameters()) == 25_537_552


@pytest.mark.parametrize("form", ["wan21", "wan22"])
@torch.no_grad()
def test_the_base_start_is_the_base_s_rgb_latent_whatever_alpha_is(form: str) -> None:
    base = random_base(form, torch.float64)
    rgb, alpha = clip()
    expected = base.encode(hard_render(rgb, alpha, torch.tensor(PINK))).latent_dist.mean
    vae = AlphaVAE(base, AdapterSpec(rank=2)).double()
    assert torch.isfinite(expected).all()
    assert expected.std() > 1e-3
    for streaming in (True, False):
        z = vae.encode(rgb, alpha, PINK, streaming=streaming)
        torch.testing.assert_close(z, expected, rtol=0, atol=1e-12)
    features = encode_features(base, rgb)
    for other in (features, -7 * features, torch.zeros_like(features)):
        torch.testing.assert_close(vae.merge(features, other), latent_mean(base, features), rtol=0, atol=1e-12)


def test_the_alpha_half_can_learn_from_the_first_step_on() -> None:
    block = build_merge_block(random_base("wan22"), "base")
    features = block.conv_in.out_channels
    rgb, alpha = torch.randn(2, 1, features, 3, 2, 2).unbind()
    block(rgb, alpha).square().mean().backward()
    gradient = block.conv_in.weight.grad
    assert gradient is not None
    assert (gradient[:, features:].flatten(1).norm(dim=1) > 0).all()
    first = block.blocks[0].conv2.weight.grad  # a residual branch at zero still feels the loss
    assert first is not None
    assert first.abs().max() > 0


def test_the_random_start_is_another() -> None:
    base = random_base("wan22")
    features = encode_features(base, torch.rand(1, 3, 5, 16, 16))
    start, paper = build_merge_block(base, "base"), build_merge_block(base, "random")
    assert (paper(features, features) - latent_mean(base, features)).abs().mean() > 0.01
    assert (paper(features, features) - paper(features, -features)).abs().mean() > 0.001
    torch.testing.assert_close(start(features, features), latent_mean(base, features), rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match=r"merge.init is 'zeros'; it must be 'base' .* or 'random'"):
        build_merge_block(base, "zeros")  # type: ignore[arg-type]


@torch.no_grad()
def test_random_block_streams_and_is_causal() -> None:
    torch.manual_seed(3)
    block = FeatureMergeBlock(features=8, z_dim=3).double()
    for parameter in block.parameters():
        parameter.add_(0.2 * torch.randn_like(parameter))  # attention starts at zero: make every layer count
    rgb, alpha = torch.randn(2, 1, 8, 5, 3, 2, dtype=torch.float64).unbind()
    whole = block(rgb, alpha)
    cache = FeatureCache(block)
    streamed = torch.cat([block.stream(rgb[:, :, t : t + 1], alpha[:, :, t : t + 1], cache) for t in range(5)], dim=2)
    torch.testing.assert_close(streamed, whole, rtol=0, atol=1e-12)
    later = alpha.clone()
    later[:, :, 3:] += 1
    changed = block(rgb, later)
    torch.testing.assert_close(changed[:, :, :3], whole[:, :, :3], rtol=0, atol=1e-13)
    assert (changed[:, :, 3] - whole[:, :, 3]).abs().max() > 1e-6
