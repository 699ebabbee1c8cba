"""The fast DoRA layer: peft's numbers, gradients and files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from small_dit import disturb_adapters, dit_inputs, random_dit
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from wan_alpha.models import dora
from wan_alpha.models.dit_adapters import TARGETS, add_dit_adapters, dit_layers
from wan_alpha.models.dora import FastDoraLinear
from wan_alpha.training.memory import LiveBytes


def layer(fast: bool, dtype: torch.dtype = torch.float64, bias: bool = True) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(24, 40, bias=bias), nn.GELU(), nn.Linear(40, 16, bias=bias)).to(dtype)
    config = LoraConfig(r=4, lora_alpha=6, use_dora=True, target_modules=["0", "2"])
    if fast:
        config._register_custom_module({nn.Linear: FastDoraLinear})
    inject_adapter_in_model(config, model)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_" in name:
                p.add_(torch.randn_like(p) * 0.2)
    return model


@pytest.mark.parametrize("keeps_output", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_equals_peft_in_value_and_every_gradient(bias: bool, keeps_output: bool) -> None:
    fast, slow = layer(True, bias=bias), layer(False, bias=bias)
    for part in (fast[0], fast[2]):
        assert isinstance(part, FastDoraLinear)
        part.keeps_output = keeps_output
    x = torch.randn(2, 7, 24, dtype=torch.float64)
    weight = torch.randn(2, 7, 16, dtype=torch.float64)
    results: list[list[Tensor]] = []
    for model in (fast, slow):
        given = x.clone().requires_grad_()
        y = model(given)
        (y * weight).sum().backward()
        grads = [p.grad for name, p in sorted(model.named_parameters()) if "lora_" in name]
        assert len(grads) == 6
        results.append([y, given.grad, *grads])  # type: ignore[list-item]
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-13)


def test_whole_transformer_equals_peft_and_covers_every_target() -> None:
    ours, theirs = random_dit(torch.float64), random_dit(torch.float64)
    add_dit_adapters(ours, 4, 8)
    names = sorted(f"blocks.{n}.{target}" for n in range(2) for target in TARGETS)
    assert sorted(dit_layers(ours)) == names
    theirs.add_adapter(LoraConfig(r=4, lora_alpha=8, use_dora=True, target_modules=names))
    disturb_adapters(ours)
    theirs.load_state_dict(ours.state_dict())
    inputs = dit_inputs(ours, torch.float64)
    losses = [m(**inputs, return_dict=False)[0].square().sum() for m in (ours, theirs)]
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-11, atol=0)
    for loss in losses:
        loss.backward()
    for (name, p), (_, q) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
        if ".lora_" in name:
            torch.testing.assert_close(p.grad, q.grad, rtol=1e-9, atol=1e-12)


def test_lean_adapters_keep_one_output_less_per_block() -> None:
    kept = {}
    for lean in (True, False):
        dit = random_dit()
        add_dit_adapters(dit, 4, 8, lean=lean)
        with LiveBytes() as live:
            loss = dit(**dit_inputs(dit), return_dict=False)[0].sum()
        kept[lean] = live.now
        loss.backward()
    output = 2 * (3 * 2 * 3) * 24 * 4  # clips, tokens, width, bytes
    assert kept[False] - kept[True] == 2 * output


class LargestNewMatrix(TorchDispatchMode):
    """Notes the shapes of everything that is computed."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: set[tuple[int, ...]] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if torch.is_tensor(out) and not func.is_view:
            self.shapes.add(tuple(out.shape))
        return out


def test_no_matrix_of_the_weights_size_is_built() -> None:
    for fast in (True, False):
        model = layer(fast)
        with LargestNewMatrix() as seen:
            model(torch.randn(7, 24, dtype=torch.float64)).sum().backward()
        built = any(shape in seen.shapes for shape in ((40, 24), (24, 40)))
        assert built is not fast


def test_starts_as_the_base_and_holds_adapters_in_float32() -> None:
    dit = random_dit(torch.bfloat16)
    inputs = dit_inputs(dit, torch.bfloat16)
    before = dit(**inputs, return_dict=False)[0]
    trained = add_dit_adapters(dit, 4, 4)
    assert {p.dtype for p in trained.values()} == {torch.float32}
    assert all(p.requires_grad for p in trained.values())
    assert sum(p.requires_grad for p in dit.parameters()) == len(trained) == 2 * len(TARGETS) * 3
    torch.testing.assert_close(dit(**inputs, return_dict=False)[0], before, rtol=0.05, atol=0.02)


def test_autocast_and_checkpointing_give_the_same_gradients() -> None:
    grads = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        dit = random_dit()
        trained = add_dit_adapters(dit, 4, 4)
        disturb_adapters(dit)
        if checkpointing:
            dit.enable_gradient_checkpointing()
        with torch.autocast("cpu", torch.bfloat16):
            loss = dit.train()(**dit_inputs(dit), return_dict=False)[0].float().square().sum()
        loss.backward()  # outside, as training does
        grads.append([p.grad for p in trained.values()])
    for plain, checkpointed in zip(*grads, strict=True):
        assert plain is not None
        assert plain.dtype == torch.float32
        torch.testing.assert_close(plain, checkpointed, rtol=0, atol=0)


def test_under_autocast_a_layer_takes_float32_as_pefts_does() -> None:
    results = []
    for fast in (True, False):
        model, x = layer(fast, torch.float32), torch.linspace(-1, 1, 7 * 24).view(7, 24).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            y = model(x)
        y.float().square().sum().backward()
        results.append([y, x.grad, *(p.grad for name, p in sorted(model.named_parameters()) if "lora_" in name)])
    for ours, theirs in zip(*results, strict=True):
        assert ours.dtype == theirs.dtype
        assert (ours - theirs).norm() < 0.02 * theirs.norm()


def test_new_base_weights_are_noticed() -> None:
    model = layer(True)
    x = torch.randn(3, 24, dtype=torch.float64)
    model(x)
    state = {k: v * 2 if "base_layer" in k else v for k, v in model.state_dict().items()}
    slow = layer(False)
    model.load_state_dict(state)
    slow.load_state_dict(state)
    torch.testing.assert_close(model(x), slow(x), rtol=1e-11, atol=1e-13)


class Int8Linear(nn.Linear):
    """A quantised linear layer as libraries make them: its weight is no matrix one could multiply with."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.to(x.dtype) * 0.01, self.bias)


def test_quantised_base_gives_what_its_dequantised_form_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    codes = torch.randint(-90, 90, (40, 24), dtype=torch.int8)
    small, plain = Int8Linear(24, 40), nn.Linear(24, 40)
    plain.load_state_dict({"weight": codes.float() * 0.01, "bias": small.bias.data})
    small.weight = nn.Parameter(codes, requires_grad=False)
    config = LoraConfig(r=4, lora_alpha=4, use_dora=True, target_modules=["0"])
    wrapped = FastDoraLinear(plain, "default", config, r=4, lora_alpha=4)
    other = FastDoraLinear(plain, "default", config, r=4, lora_alpha=4)
    other.base_layer, other._base_norm = small, None
    other.load_state_dict(wrapped.state_dict() | {"base_layer.weight": codes})
    for model in (wrapped, other):
        with torch.no_grad():
            model.lora_B["default"].weight.copy_(torch.linspace(-1, 1, 160).view(40, 4))
    x = torch.randn(5, 24, requires_grad=True)
    grads = []
    for model in (wrapped, other):
        y = model(x)
        trained = [p for name, p in model.named_parameters() if "lora_" in name]
        grads.append((y, *torch.autograd.grad(y.square().sum(), [x, *trained])))
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_switched_off_and_merged_layers_take_pefts_way() -> None:
    model = layer(True)
    x = torch.randn(3, 24, dtype=torch.float64)
    adapted = model(x)
    first = model[0]
    assert isinstance(first, FastDoraLinear)
    base = first.get_base_layer()(x)
    first.enable_adapters(False)
    torch.testing.assert_close(first(x), base, rtol=0, atol=0)
    first.enable_adapters(True)
    first.merge()
    assert not torch.equal(first(x), base)
    torch.testing.assert_close(model(x), adapted)
    first.unmerge()
    torch.testing.assert_close(model(x), adapted)


def test_compiles(tmp_path: Path) -> None:
    model = layer(True, torch.float32)
    x = torch.randn(3, 24)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    expected = model(x)
    torch.testing.assert_close(compiled(x), expected)
    assert dora.is_plain(model[0].get_base_layer())  # type: ignore[union-attr, operator]
