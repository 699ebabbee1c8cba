"""LoRA on Wan's causal convolutions, and two adapters that share one frozen decoder.

peft's own Conv3d LoRA cannot wrap `WanCausalConv3d`: its constructor differs, and the cache and the causal padding
never reach `lora_A`.  `FoldedConvLora` folds the adapter into the weight instead,

    y = conv(x; W + s B A)

for every kernel tap, and runs the base convolution, whatever it is (2D, causal 3D, with or without cache), once.  The
frozen weight then needs a gradient, but the adapter's own convolutions and their activations disappear: per layer, the
cost is 3 convolutions (forward, input gradient, weight gradient) against 2 + 3 r/C_out of the two-branch form, which at
the paper's rank 128 is less than half the work in the wide-open 96-channel layers.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora.layer import _ConvNd
from torch import Tensor, nn
from torch.func import functional_call

from wan_alpha.models.whole_clip import Block, Runner

DECODER_ADAPTERS = ("rgb", "alpha")


class FoldedConvLora(_ConvNd):
    """A peft LoRA layer for Conv2d and (causal) Conv3d that folds s·B·A into the weight on the fly."""

    def update_layer(self, adapter_name: str, r: int, lora_alpha: float, config: LoraConfig, **kwargs: object) -> None:
        if r <= 0:
            raise ValueError(f"the LoRA rank is {r}; it must be a positive integer")
        base = self._base()
        conv: Any = nn.Conv2d if isinstance(base, nn.Conv2d) else nn.Conv3d
        self.r[adapter_name] = r
        self.lora_alpha[adapter_name] = lora_alpha
        self.scaling[adapter_name] = lora_alpha / r
        self.lora_bias[adapter_name] = False
        self.lora_A[adapter_name] = conv(self.in_features, r, base.kernel_size, bias=False)
        self.lora_B[adapter_name] = conv(r, self.out_features, 1, bias=False)
        self.reset_lora_parameters(adapter_name, True)
        self._move_adapter_to_device_of_base_layer(adapter_name)

    def _base(self) -> nn.Conv2d | nn.Conv3d:
        return cast(nn.Conv2d | nn.Conv3d, self.get_base_layer())

    def get_delta_weight(self, adapter: str) -> Tensor:
        """s·B·A in the shape of the base weight."""
        a, b = cast(Tensor, self.lora_A[adapter].weight), cast(Tensor, self.lora_B[adapter].weight)
        return (b.flatten(1) @ a.flatten(1)).view_as(self._base().weight) * self.scaling[adapter]

    def forward(self, x: Tensor, *args: Tensor, **kwargs: Tensor) -> Tensor:
        base = self._base()
        active = [] if self.merged else [name for name in self.active_adapters if name in self.lora_A]
        if not active:
            return base(x, *args, **kwargs)
        weight: Tensor = base.weight
        for name in active:
            weight = weight + self.get_delta_weight(name)
        return functional_call(base, {"weight": weight}, (x, *args), kwargs)


def add_decoder_adapters(decoder: nn.Module, rank: int, lora_alpha: float) -> None:
    """Give every Conv2d and Conv3d of a Wan decoder two LoRA adapters, `rgb` and `alpha`; none is active afterwards.

    Args:
        decoder: diffusers' WanDecoder3d (38 convolutions in Wan2.1); its own weights are frozen.
        rank, lora_alpha: r and alpha of LoRA; the update is scaled by alpha / r (authors: 128 and 1.0).
    """
    decoder.requires_grad_(False)
    names = [name for name, module in decoder.named_modules() if isinstance(module, nn.Conv2d | nn.Conv3d)]
    for adapter in DECODER_ADAPTERS:
        config = LoraConfig(r=rank, lora_alpha=lora_alpha, target_modules=names)  # type: ignore[arg-type]
        config._register_custom_module({nn.Conv2d: FoldedConvLora, nn.Conv3d: FoldedConvLora})
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Already found a `peft_config`")  # two adapters are the point
            inject_adapter_in_model(config, decoder, adapter_name=adapter)
    for layer in lora_layers(decoder).values():
        layer._active_adapter = []
        layer.lora_A.requires_grad_(True)
        layer.lora_B.requires_grad_(True)


def lora_layers(decoder: nn.Module) -> dict[str, FoldedConvLora]:
    """The LoRA layers of a decoder by module name."""
    return {name: module for name, module in decoder.named_modules() if isinstance(module, FoldedConvLora)}


class AdapterSwitch:
    """Chooses which of a decoder's adapters is active, without touching anything else.

    peft's `set_adapter` also turns off `requires_grad` of the other adapter, which would silently drop its gradient
    when both are used in one step.
    """

    def __init__(self, decoder: nn.Module) -> None:
        self.layers = list(lora_layers(decoder).values())

    @contextmanager
    def use(self, adapter: str | None) -> Iterator[None]:
        """Inside the `with` block the decoder runs with `adapter`, or as the plain base with None."""
        before = [layer._active_adapter for layer in self.layers]
        for layer in self.layers:
            layer._active_adapter = [] if adapter is None else [adapter]
        try:
            yield
        finally:
            for layer, names in zip(self.layers, before, strict=True):
                layer._active_adapter = names

    def runner(self, adapter: str | None, run: Runner) -> Runner:
        """`run`, switching inside the block: a checkpointed block must find its adapter again in the backward pass."""

        def adapted_run(block: Block, x: Tensor) -> Tensor:
            def adapted(y: Tensor) -> Tensor:
                with self.use(adapter):
                    return block(y)

            return run(adapted, x)

        return adapted_run


@torch.no_grad()
def merge_adapter(decoder: nn.Module, adapter: str) -> None:
    """Fold one adapter into the base weights for good (in float32 or better, then cast); drop all LoRA layers."""
    for name, layer in lora_layers(decoder).items():
        base = layer._base()
        precision = torch.promote_types(base.weight.dtype, torch.float32)
        base.weight.copy_(base.weight.to(precision) + layer.get_delta_weight(adapter).to(precision))
        parent, _, child = name.rpartition(".")
        setattr(decoder.get_submodule(parent), child, base)
