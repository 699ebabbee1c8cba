"""What both forms of paired tokens share: LoRA on the alpha half of the tokens, and the embedding that marks it.

A sequence is [text] RGB alpha, the two halves of equal length.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass
class TokenLayout:
    """How many text tokens come before the RGB tokens in the sequence that runs now."""

    text: int = 0

    def alpha_from(self, tokens: int) -> int:
        """The first alpha token of `tokens`."""
        return self.text + (tokens - self.text) // 2


class AlphaLora(nn.Module):
    """y = W x + b, and for alpha tokens (alpha / r) B A x more; B starts at zero.

    Args:
        base: the frozen layer.
        rank, alpha: r and alpha.
        layout: where alpha tokens are.
    """

    def __init__(self, base: nn.Linear, rank: int, alpha: float, layout: TokenLayout) -> None:
        super().__init__()
        self.base_layer = base
        self.scale, self.layout = alpha / rank, layout
        place = {"device": base.weight.device, "dtype": torch.promote_types(base.weight.dtype, torch.float32)}
        self.lora_A = nn.Linear(base.in_features, rank, bias=False, **place)
        self.lora_B = nn.Linear(rank, base.out_features, bias=False, **place)
        nn.init.zeros_(self.lora_B.weight)

    def forward(self, x: Tensor) -> Tensor:
        y = self.base_layer(x)
        first = self.layout.alpha_from(x.shape[1])
        a, b = (layer.weight.to(y.dtype) for layer in (self.lora_A, self.lora_B))
        delta = F.linear(F.linear(x[:, first:].to(y.dtype), a), b) * self.scale
        return torch.cat([y[:, :first], y[:, first:] + delta], dim=1)


def add_alpha_lora(
    module: nn.Module, names: list[str], rank: int, alpha: float, layout: TokenLayout
) -> dict[str, AlphaLora]:
    """Put an `AlphaLora` in the place of every named linear layer."""
    added = {}
    for name in names:
        base = module.get_submodule(name)
        assert isinstance(base, nn.Linear)
        parent, _, child = name.rpartition(".")
        added[name] = AlphaLora(base, rank, alpha, layout)
        setattr(module.get_submodule(parent), child, added[name])
    return added


def attend(query: Tensor, key: Tensor, value: Tensor, blind: int, seen: int) -> Tensor:
    """Attention in which the first `blind` queries see the first `seen` keys only; no mask is built.

    query, key, value (B, heads, N, d) -> (B, N, heads·d).
    """
    first = F.scaled_dot_product_attention(query[:, :, :blind], key[:, :, :seen], value[:, :, :seen])
    rest = F.scaled_dot_product_attention(query[:, :, blind:], key, value)
    return torch.cat([first, rest], dim=2).transpose(1, 2).flatten(2)
