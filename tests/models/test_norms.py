"""Norm and SiLU as one operation: diffusers' numbers, the model's names, and fewer passes over a clip."""

from __future__ import annotations

import copy

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import WanRMS_norm
from small_world import random_base
from torch import Tensor
from torch.nn import functional as F

from wan_alpha.models import norms
from wan_alpha.models.alpha_vae import AdapterSpec, AlphaVAE
from wan_alpha.models.device import missing_compiler
from wan_alpha.models.norms import NormSilu, fuse_norms, norm_silu

GENERATOR = torch.Generator().manual_seed(0)


def clip(channels: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(2, channels, 3, 4, 5, generator=GENERATOR, dtype=torch.float64).to(dtype)


needs_compiler = pytest.mark.skipif(bool(missing_compiler()), reason=f"torch compiles with {missing_compiler()}")


def test_it_is_the_equation_and_diffusers_two_modules() -> None:
    norm, x = WanRMS_norm(6, images=False).double(), clip(6)
    with torch.no_grad():
        norm.gamma.normal_()
    found = norm_silu(x, norm.gamma * norm.scale, torch.float64)
    torch.testing.assert_close(found, F.silu(norm(x)), rtol=1e-12, atol=1e-12)
    y = 6**0.5 * norm.gamma * x / x.square().sum(1, keepdim=True).sqrt()
    torch.testing.assert_close(found, y * torch.sigmoid(y), rtol=1e-12, atol=1e-12)


def test_it_gives_the_type_that_convolutions_take() -> None:
    layer, x = NormSilu(WanRMS_norm(6, images=False)), clip(6, torch.float32)
    for dtype in (torch.float32, torch.bfloat16):
        assert norm_silu(x, layer.gamma, dtype).dtype == dtype
    narrow = x.to(torch.bfloat16)
    exact = norm_silu(narrow.double(), layer.gamma.double() * layer.scale, torch.float64)
    found = norm_silu(narrow, layer.gamma * layer.scale, torch.bfloat16)
    assert torch.equal(found, exact.to(torch.bfloat16))  # rounded once


@pytest.mark.parametrize("architecture", ["wan21", "wan22"])
def test_a_model_keeps_its_names_and_gives_the_same(architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Encoder, merge block and both decoders, streaming and whole, in double precision."""
    monkeypatch.setattr(norms, "_compiled", norm_silu)
    plain = AlphaVAE(random_base(architecture, torch.float64), AdapterSpec(rank=2, lora_alpha=2.0))
    with torch.no_grad():
        for p in plain.adapter_parameters().values():
            p.add_(0.05 * torch.randn(p.shape, generator=GENERATOR, dtype=torch.float64))
    fused = copy.deepcopy(plain)
    fuse_norms(fused)
    left = [name for name, m in fused.base.named_modules() if isinstance(m, WanRMS_norm)]
    assert left
    assert all("attentions" in name for name in left)
    assert fused.state_dict().keys() == plain.state_dict().keys()
    assert fused.adapter_parameters().keys() == plain.adapter_parameters().keys()
    rgb = torch.rand(1, 3, 5, 32, 32, generator=GENERATOR, dtype=torch.float64) * 2 - 1
    alpha = torch.rand(1, 1, 5, 32, 32, generator=GENERATOR, dtype=torch.float64)
    for streaming in (False, True):
        grads = []
        for model in (plain, fused):
            model.zero_grad()
            z = model.encode(rgb, alpha, streaming=streaming)
            frames = model.decode(z, streaming=streaming)
            if not streaming:
                (frames[0].square().mean() + frames[1].mean()).backward()
            trained = [p.grad for p in model.adapter_parameters().values() if p.grad is not None]
            grads.append([z.detach(), *(f.detach() for f in frames), *trained])
        for a, b in zip(*grads, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


@needs_compiler
def test_compiled_it_is_the_same_with_its_gradients() -> None:
    """For every width in one go, with a gradient and without."""
    layer = NormSilu(WanRMS_norm(6, images=False)).to("cuda" if torch.cuda.is_available() else "cpu")
    for memory_format in (torch.contiguous_format, torch.channels_last_3d):
        x = clip(6, torch.float32).to(layer.gamma.device, memory_format=memory_format).requires_grad_()
        results = []
        for run in (layer, lambda x: norm_silu(x, layer.gamma * layer.scale, torch.float32)):
            y = run(x)
            results.append((y, *torch.autograd.grad(y.square().sum(), [x, layer.gamma])))
        for a, b in zip(*results, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
        with torch.no_grad():
            torch.testing.assert_close(layer(x), results[1][0], rtol=1e-5, atol=1e-5)
