"""Two LoRA adapters on one frozen decoder: targets, arithmetic, gradients, merging."""

from __future__ import annotations

import copy

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan, WanCausalConv3d
from small_world import random_base
from torch import Tensor, nn
from torch.nn import functional as F

from wan_alpha.models.lora import (
    AdapterSwitch,
    FoldedConvLora,
    add_decoder_adapters,
    lora_layers,
    merge_adapter,
)
from wan_alpha.models.whole_clip import Runner, decode_clip, run_checkpointed, run_plain

Z_DIM = {"wan21": 4, "wan22": 6}


def randomise(decoder: nn.Module, seed: int = 1) -> None:
    """Adapters start at zero, which hides everything: give them something to say."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in decoder.named_parameters():
        if ".lora_" in name:
            parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator).to(parameter)


def adapted_base(
    form: str, dtype: torch.dtype = torch.float64, rank: int = 3
) -> tuple[AutoencoderKLWan, AdapterSwitch]:
    vae = random_base(form, dtype)
    add_decoder_adapters(vae.decoder, rank, lora_alpha=2.0)
    vae.to(dtype)
    return vae, AdapterSwitch(vae.decoder)


def latent(form: str, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(1, Z_DIM[form], 3, 2, 2, generator=torch.Generator().manual_seed(5)).to(dtype)


def test_every_convolution_of_wan21_s_decoder_is_a_target_and_nothing_else() -> None:
    with torch.device("meta"):
        vae = AutoencoderKLWan()  # Wan2.1 at full size is the default
        add_decoder_adapters(vae.decoder, rank=128, lora_alpha=1.0)
    layers = lora_layers(vae.decoder)
    assert len(layers) == 38
    assert not lora_layers(vae.post_quant_conv)
    assert isinstance(vae.post_quant_conv, WanCausalConv3d)
    bare = [m for m in vae.decoder.modules() if isinstance(m, nn.Conv2d | nn.Conv3d)]
    assert len(bare) == 38 * (1 + 2 * 2)  # the base, and A and B of two adapters
    for layer in layers.values():
        assert layer.scaling == {"rgb": 1 / 128, "alpha": 1 / 128}
        assert layer.active_adapters == []
    trained = {name for name, p in vae.named_parameters() if p.requires_grad and "decoder" in name}
    assert len(trained) == 38 * 4
    assert all(".lora_" in name for name in trained)


@pytest.mark.parametrize("form", ["wan21", "wan22"])
@torch.no_grad()
def test_fresh_adapters_are_the_base_to_the_bit(form: str) -> None:
    plain, z = random_base(form), latent(form, torch.float32)
    expected = decode_clip(plain, z)
    vae, switch = adapted_base(form, torch.float32)
    for adapter in ("rgb", "alpha", None):
        assert torch.equal(decode_clip(vae, z, switch.runner(adapter, run_plain)), expected)
    randomise(vae.decoder)
    assert torch.equal(decode_clip(vae, z, switch.runner(None, run_plain)), expected)
    rgb, alpha = (decode_clip(vae, z, switch.runner(adapter, run_plain)) for adapter in ("rgb", "alpha"))
    assert (rgb - expected).abs().max() > 1e-3
    assert (rgb - alpha).abs().max() > 1e-3


def loss_of_both(vae: AutoencoderKLWan, switch: AdapterSwitch, z: Tensor, run: Runner) -> Tensor:
    rgb = decode_clip(vae, z, switch.runner("rgb", run))
    alpha = decode_clip(vae, z, switch.runner("alpha", run))
    return rgb.square().mean() + (alpha - 0.5).square().mean()


def gradients(decoder: nn.Module, adapter: str) -> dict[str, Tensor]:
    named = {n: p.grad for n, p in decoder.named_parameters() if f".{adapter}." in n}
    assert all(g is not None and g.abs().max() > 0 for g in named.values())
    return {n: g.clone() for n, g in named.items() if g is not None}


@pytest.mark.parametrize("run", [run_plain, run_checkpointed])
@pytest.mark.parametrize("form", ["wan21", "wan22"])
def test_both_adapters_in_one_step_have_the_gradients_of_two_separate_decoders(form: str, run: Runner) -> None:
    vae, switch = adapted_base(form)
    randomise(vae.decoder)
    copies = {adapter: copy.deepcopy(vae) for adapter in ("rgb", "alpha")}
    z = latent(form).requires_grad_(True)
    loss_of_both(vae, switch, z, run).backward()
    assert z.grad is not None
    apart = latent(form).requires_grad_(True)
    for adapter, target in (("rgb", 0.0), ("alpha", 0.5)):
        alone = copies[adapter]
        for layer in lora_layers(alone.decoder).values():
            layer._active_adapter = [adapter]  # a decoder of its own, that never switches
        (decode_clip(alone, apart) - target).square().mean().backward()
        expected = gradients(alone.decoder, adapter)
        found = gradients(vae.decoder, adapter)
        assert found.keys() == expected.keys()
        for name in expected:
            torch.testing.assert_close(found[name], expected[name], rtol=1e-9, atol=1e-14)
    torch.testing.assert_close(z.grad, apart.grad, rtol=1e-9, atol=1e-14)
    base = [p for n, p in vae.named_parameters() if ".lora_" not in n]
    assert all(p.grad is None and not p.requires_grad for p in base)


def two_branch(layer: FoldedConvLora, adapter: str, x: Tensor, past: Tensor | None) -> Tensor:
    """LoRA as peft writes it: base(x) + scale · B(A(x)), A with the base's stride and (causal) padding."""
    base, a, b = layer._base(), layer.lora_A[adapter].weight, layer.lora_B[adapter].weight
    if isinstance(base, nn.Conv2d):
        low = F.conv2d(x, a, None, base.stride, base.padding)
        return base(x) + layer.scaling[adapter] * F.conv2d(low, b)
    width, _, height, _, before, _ = base._padding
    padded = x
    if past is not None and before > 0:
        padded, before = torch.cat([past, x], dim=2), before - past.shape[2]
    padded = F.pad(padded, (width, width, height, height, before, 0))
    low = F.conv3d(padded, a, None, base.stride)
    return base(x, past) + layer.scaling[adapter] * F.conv3d(low, b)


@pytest.mark.parametrize("form", ["wan21", "wan22"])
@torch.no_grad()
def test_the_folded_form_is_peft_s_two_branches_in_every_layer(form: str) -> None:
    vae, switch = adapted_base(form)
    randomise(vae.decoder)
    generator, kinds = torch.Generator().manual_seed(0), set()
    for layer in lora_layers(vae.decoder).values():
        base = layer._base()
        size = (4, 4) if isinstance(base, nn.Conv2d) else (3, 4, 4)
        x = torch.randn(2, base.in_channels, *size, generator=generator, dtype=torch.float64)
        pasts = [None] if isinstance(base, nn.Conv2d) else [None, x[:, :, :1], x[:, :, :2]]
        for past in pasts:
            arguments = () if past is None else (past,)
            for adapter in ("rgb", "alpha"):
                with switch.use(adapter):
                    found = layer(x, *arguments)
                torch.testing.assert_close(found, two_branch(layer, adapter, x, past), rtol=0, atol=1e-10)
        kinds.add((type(base).__name__, base.kernel_size))
    assert ("Conv2d", (3, 3)) in kinds
    assert {("WanCausalConv3d", (3, 3, 3)), ("WanCausalConv3d", (3, 1, 1))} <= kinds


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize("form", ["wan21", "wan22"])
@pytest.mark.parametrize("adapter", ["rgb", "alpha"])
@torch.no_grad()
def test_merged_equals_unmerged(form: str, adapter: str, dtype: torch.dtype, tolerance: float) -> None:
    vae, switch = adapted_base(form, dtype)
    randomise(vae.decoder)
    z = latent(form, dtype)
    expected = decode_clip(vae, z, switch.runner(adapter, run_plain))
    plain = decode_clip(vae, z, switch.runner(None, run_plain))
    merge_adapter(vae.decoder, adapter)
    assert not lora_layers(vae.decoder)
    assert vae.state_dict().keys() == random_base(form).state_dict().keys()
    assert (expected - plain).abs().max() > 1e-3
    torch.testing.assert_close(decode_clip(vae, z), expected, rtol=tolerance, atol=tolerance)


def test_switching_survives_an_error_and_touches_no_requires_grad() -> None:
    vae, switch = adapted_base("wan22")
    before = {n: p.requires_grad for n, p in vae.named_parameters()}
    with pytest.raises(KeyError), switch.use("rgb"):
        assert all(layer.active_adapters == ["rgb"] for layer in lora_layers(vae.decoder).values())
        with switch.use("alpha"):
            assert all(layer.active_adapters == ["alpha"] for layer in lora_layers(vae.decoder).values())
        raise KeyError
    assert all(layer.active_adapters == [] for layer in lora_layers(vae.decoder).values())
    assert {n: p.requires_grad for n, p in vae.named_parameters()} == before


def test_a_rank_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match=r"rank is 0|positive"):
        add_decoder_adapters(random_base("wan22").decoder, 0, 1.0)
