"""FLOPs of a piece of code, counted while it runs: matrix products, convolutions, attention."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

_CPU_ATTENTION = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_CPU_ATTENTION_BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


class Flops(TorchDispatchMode):
    """Adds up the FLOPs of everything inside the `with` block, by torch's formulas.

    `torch.utils.flop_counter.FlopCounterMode` follows modules with hooks that a gradient within the forward pass, as
    the perceptual loss takes it, does not allow; and it does not know the processor's attention.

    What checkpointing computes again is told apart by where it happens: in the backward pass, but with gradients on.

    Attributes:
        total: FLOPs, a multiplication and an addition as two.
        again: those of what was computed a second time.
        backward: to be set when the backward pass begins.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = self.again = 0
        self.backward = False

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        """Let compiled functions run as they are: torch would never compile again what it meets under another mode.

        Their operations are not seen, so nothing that is to be counted may be compiled.
        """
        return True

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        count = _flops(func._overloadpacket, args, kwargs, out)
        if self.backward and torch.is_grad_enabled():
            self.again += count
        else:
            self.total += count
        return out


def _flops(operation: Any, args: Any, kwargs: Any, out: Any) -> int:
    if operation == _CPU_ATTENTION:
        return sdpa_flop_count(*(t.shape for t in args[:3]))
    if operation == _CPU_ATTENTION_BACKWARD:
        return sdpa_backward_flop_count(*(t.shape for t in args[:4]))
    if operation in flop_registry:
        return flop_registry[operation](*args, **kwargs, out_val=out)
    return 0
