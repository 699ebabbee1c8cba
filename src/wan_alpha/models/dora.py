"""DoRA for linear layers at the price of LoRA.

DoRA (arXiv 2402.09353) trains a direction and a magnitude of every output row,

    V = W + s B A,   y = m / ||V|| * (V x) + b,

and treats ||V|| as a constant in the backward pass (section 4.3 of the paper), as peft does.  peft builds B A, an
out x in matrix, in every forward pass and makes six passes over the output.  `FastDoraLinear` is peft's own layer with
another forward pass: same parameters, same files, same merge.  It takes the norm from

    ||V||^2 = ||W||^2 + 2 s rowsum((W A^T) o B) + s^2 rowsum((B A A^T) o B),

whose first term never changes and whose others are out x r, and writes the output in place.  For the backward pass it
keeps what LoRA keeps (x and A x) and the output itself, which the next operation mostly keeps anyway: V x is
(y - b) ||V|| / m, so the gradient of a magnitude that is exactly 0 is not defined here and given as 0.  Where nobody
else keeps the output, as before a residual sum, a layer may compute V x again instead (`keeps_output`).
"""

from __future__ import annotations

from typing import Any, cast

import torch
from peft import LoraConfig
from peft.tuners.lora.layer import Linear as PeftLinear
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


class _DoraLinear(torch.autograd.Function):
    """y = g (x W^T + s (x A^T) B^T) + b with g = m / ||V||; W, b, s and ||V|| are constants."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        a: Tensor,
        b: Tensor,
        magnitude: Tensor,
        norm: Tensor,
        scale: float,
        keeps_output: bool,
    ) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        low = flat @ a.T
        y = (flat @ weight.T).addmm_(low, b.T, alpha=scale)
        gain = (magnitude / norm).to(y.dtype)
        y = y.mul_(gain) if bias is None else torch.addcmul(bias, y, gain, out=y)
        y = y.view(*x.shape[:-1], -1)
        kept = y if keeps_output else None
        ctx.save_for_backward(x, weight, bias, a, b, magnitude, gain, norm, low, kept)
        ctx.scale = scale
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, a, b, magnitude, gain, norm, low, y = ctx.saved_tensors
        flat_dy = dy.reshape(-1, dy.shape[-1])
        scaled = flat_dy * gain
        dlow = (scaled @ b).mul_(ctx.scale)
        dx = (scaled @ weight).addmm_(dlow, a).view(x.shape) if ctx.needs_input_grad[0] else None
        da = dlow.T @ x.reshape(-1, x.shape[-1])
        db = (scaled.T @ low).mul_(ctx.scale)
        if y is None:
            vx = (x.reshape(-1, x.shape[-1]) @ weight.T).addmm_(low, b.T, alpha=ctx.scale)
            dm = (flat_dy * vx).sum(0, dtype=magnitude.dtype) / norm.to(magnitude.dtype)
        else:
            dm = _magnitude_grad(flat_dy, y, bias, magnitude)
        return dx, None, None, da, db, dm, None, None, None


def _magnitude_grad(dy: Tensor, y: Tensor, bias: Tensor | None, magnitude: Tensor) -> Tensor:
    """sum over tokens of dy (y - b) / m, one number per output."""
    wide = magnitude.dtype
    grad = (dy * y.view(dy.shape)).sum(0, dtype=wide)
    if bias is not None:
        grad -= bias.to(wide) * dy.sum(0, dtype=wide)
    return torch.where(magnitude == 0, torch.zeros_like(grad), grad / magnitude)


class FastDoraLinear(PeftLinear):
    """peft's LoRA layer for `nn.Linear`; one active DoRA adapter takes the fast way, everything else peft's own.

    The base weight may be quantised: any layer whose call is x W^T + b will do.

    Attributes:
        keeps_output: for the backward pass; False computes it again, one more product for less memory.
    """

    keeps_output = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._base_norm: tuple[tuple[Any, ...], Tensor] | None = None
        super().__init__(*args, **kwargs)

    def update_layer(self, adapter_name: str, r: int, lora_alpha: int, config: LoraConfig, **kwargs: Any) -> None:
        super().update_layer(adapter_name, r, lora_alpha, config, **kwargs)
        base = cast(nn.Linear, self.get_base_layer())
        if config.use_dora and not base.weight.is_meta:  # now, because a compiled forward pass keeps no state
            dtype = cast(Tensor, self.lora_B[adapter_name].weight).dtype
            self._base_square(base, torch.promote_types(dtype, torch.float32))

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        adapter = self._fast_adapter()
        if adapter is None or args or any(value is not None for value in kwargs.values()):
            return super().forward(x, *args, **kwargs)
        base = cast(nn.Linear, self.get_base_layer())
        plain = is_plain(base)
        dtype = _compute_dtype(x, base.weight.dtype if plain else x.dtype)
        a = cast(Tensor, self.lora_A[adapter].weight).to(dtype)
        b = cast(Tensor, self.lora_B[adapter].weight)
        magnitude, scale = cast(Tensor, self.lora_magnitude_vector[adapter].weight), self.scaling[adapter]
        norm = self._norm(base, a.detach(), b.detach() * scale)
        x, b = x.to(dtype), b.to(dtype)
        if plain:
            bias = None if base.bias is None else base.bias.to(dtype)
            return _DoraLinear.apply(x, base.weight.to(dtype), bias, a, b, magnitude, norm, scale, self.keeps_output)
        bias = base.bias
        v = _rows(base, x) + scale * F.linear(F.linear(x, a), b)
        y = v * (magnitude / norm).to(v.dtype)
        return y if bias is None else y + bias.to(y.dtype)

    def _fast_adapter(self) -> str | None:
        """The one active adapter, if it is DoRA without dropout and neither merged nor switched off."""
        if self.disable_adapters or self.merged:
            return None
        active = [name for name in self.active_adapters if name in self.lora_A]
        if len(active) != 1 or active[0] not in self.lora_magnitude_vector:
            return None
        return active[0] if isinstance(self.lora_dropout[active[0]], nn.Identity) else None

    @torch.no_grad()
    def _norm(self, base: nn.Linear, a: Tensor, b: Tensor) -> Tensor:
        """||W + B A|| of every row, (out,), in float32 or better; `b` holds the scale."""
        wide = torch.promote_types(b.dtype, torch.float32)
        wa = F.linear(a, base.weight.to(a.dtype)) if is_plain(base) else _rows(base, a)  # (r, out)
        b, a = b.to(wide), a.to(wide)
        square = self._base_square(base, wide) + ((2 * wa.T.to(wide) + b @ (a @ a.T)) * b).sum(1)
        return square.clamp_min(torch.finfo(wide).tiny).sqrt()

    def _apply(self, *args: Any, **kwargs: Any) -> FastDoraLinear:
        """Moving the layer moves what it remembers, or every step would wait for it to come from the host."""
        super()._apply(*args, **kwargs)
        if self._base_norm is not None:
            key, square = self._base_norm
            self._base_norm = (key, square.to(self._device()))
        return self

    def _device(self) -> torch.device:
        return next(iter(self.lora_A.parameters())).device

    def _base_square(self, base: nn.Linear, wide: torch.dtype) -> Tensor:
        """||W||^2 of every row, computed once: W is frozen.  Loading other weights into W is noticed."""
        if torch.compiler.is_compiling() and self._base_norm is not None:
            return self._base_norm[1].to(self._device(), wide)
        key = (base.weight._version, base.weight.dtype, wide)
        if self._base_norm is None or self._base_norm[0] != key:
            self._base_norm = (key, base_square(base, wide).to(self._device()))
        return self._base_norm[1].to(self._device())


def is_plain(base: nn.Module) -> bool:
    """Whether a layer is an ordinary `nn.Linear` with a floating-point weight, not a quantised one."""
    weight = cast(Tensor, base.weight)
    return type(base) is nn.Linear and type(weight.data) in (Tensor, FakeTensor) and weight.dtype.itemsize > 1


def _rows(base: nn.Linear, x: Tensor) -> Tensor:
    """x W^T of any linear layer, quantised or not."""
    y = base(x)
    return y if base.bias is None else y - base.bias.to(y.dtype)


def base_square(base: nn.Linear, wide: torch.dtype, chunk: int = 1024) -> Tensor:
    """||W||^2 of every row, (out,), without a copy of W in `wide` as a whole."""
    if is_plain(base):
        return torch.cat([part.to(wide).square().sum(1) for part in base.weight.detach().split(chunk)])
    width = base.in_features
    device, dtype = base.weight.device, torch.float32 if base.bias is None else base.bias.dtype
    dtype = torch.bfloat16 if dtype.itemsize == 1 else dtype  # of layers stored in fp8, which are cast up to be run
    total: Tensor | None = None
    for first in range(0, width, chunk):  # W column by column, as the layer itself sees it
        count = min(chunk, width - first)
        unit = torch.zeros(count, width, device=device, dtype=dtype)
        unit[torch.arange(count), first + torch.arange(count)] = 1
        square = _rows(base, unit).to(wide).square().sum(0)
        total = square if total is None else total + square
    assert total is not None
    return total


def _compute_dtype(x: Tensor, weight_dtype: torch.dtype) -> torch.dtype:
    """What the product is computed in: autocast's type inside autocast, else that of the base weight."""
    if torch.is_autocast_enabled(x.device.type):
        return torch.get_autocast_dtype(x.device.type)
    return weight_dtype
