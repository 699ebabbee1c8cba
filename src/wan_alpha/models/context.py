"""Several ranks divide the tokens of one clip: context (sequence) parallelism for videos too long for one device.

Each rank carries n = N / c of a clip's N tokens through the transformer's blocks.  Only self-attention needs them all:
there the ranks trade tokens for heads and back (DeepSpeed-Ulysses, arXiv 2309.14509), two exchanges for each attention,

    (B, N / c, H, d) -> (B, N, H / c, d) -> softmax(q kT / sqrt(d)) v -> (B, N / c, H, d).

The output is gathered whole on every rank of the group, so that each computes the same loss, c times over.  A weight's
gradient on a rank is then c times the share of its own tokens, and the mean over all ranks, which data-parallel
training takes anyway, is the gradient of the mean loss.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.distributed as dist
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from torch import Tensor
from torch.nn import functional as F


class ContextError(ValueError):
    """The tokens or the heads of a clip cannot be divided by the number of ranks."""


class _Exchange(torch.autograd.Function):
    """Part j of dimension 0 goes to rank j; what comes from rank j becomes part j.  Its own inverse and gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Any) -> Tensor:
        ctx.group = group
        y = torch.empty_like(x)
        dist.all_to_all_single(y, x, group=group)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None]:
        return cast(Tensor, _Exchange.apply(dy.contiguous(), ctx.group)), None


class _Gather(torch.autograd.Function):
    """(B, n, C) of every rank -> (B, N, C); every rank's gradient of it is the same, so the c of them add up to c."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Any) -> Tensor:
        ctx.rank, ctx.size = dist.get_rank(group), dist.get_world_size(group)
        parts = [torch.empty_like(x) for _ in range(ctx.size)]
        dist.all_gather(parts, x.contiguous(), group=group)
        return torch.cat(parts, dim=1)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None]:
        return dy.chunk(ctx.size, dim=1)[ctx.rank] * ctx.size, None


class TokenGroup:
    """The ranks that share a clip, and what each does with its part.

    Args:
        group: a process group of c ranks.
    """

    def __init__(self, group: Any) -> None:
        self.group, self.size, self.rank = group, dist.get_world_size(group), dist.get_rank(group)

    def own(self, x: Tensor) -> Tensor:
        """This rank's tokens of (B, N, ...).

        Raises:
            ContextError: N cannot be divided.
        """
        if x.shape[1] % self.size:
            raise ContextError(
                f"a clip has {x.shape[1]} tokens (latent frames x height / 2 x width / 2), which {self.size} ranks "
                "cannot divide evenly: choose another data.size, data.num_frames or trainer.context_ranks"
            )
        return x.chunk(self.size, dim=1)[self.rank]

    def gather(self, x: Tensor) -> Tensor:
        """All tokens, (B, N, C), from each rank's (B, n, C)."""
        return cast(Tensor, _Gather.apply(x, self.group))

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attention of this rank's tokens to those of all ranks: q, k, v (B, n, H, d) -> (B, n, H d).

        Raises:
            ContextError: H cannot be divided.
        """
        b, n, heads, d = query.shape
        c = self.size
        if heads % c:
            raise ContextError(f"{heads} heads cannot be divided by trainer.context_ranks={c}")
        mine = torch.stack([query, key, value]).unflatten(3, (c, heads // c)).permute(3, 0, 1, 2, 4, 5)
        theirs = cast(Tensor, _Exchange.apply(mine.contiguous(), self.group))  # (c, 3, B, n, H / c, d)
        q, k, v = theirs.permute(1, 2, 4, 0, 3, 5).flatten(3, 4).unbind(0)  # (B, H / c, N, d)
        mixed = F.scaled_dot_product_attention(q, k, v).unflatten(2, (c, n)).permute(2, 0, 3, 1, 4)
        back = cast(Tensor, _Exchange.apply(mixed.contiguous(), self.group))  # (c, B, n, H / c, d)
        return back.permute(1, 2, 0, 3, 4).reshape(b, n, heads * d)


def divide_tokens(transformer: WanTransformer3DModel, group: Any) -> TokenGroup:
    """Let every rank of `group` carry its part of the tokens from the first block to the last.

    The attention processors must use what this returns for self-attention, see `FoldedAttention.context`.
    """
    tokens = TokenGroup(group)
    parts: Any = transformer

    def positions(module: Any, inputs: Any, rotary: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
        return tuple(tokens.own(part) for part in rotary)  # each (1, N, 1, d)

    def enter(module: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return tokens.own(inputs[0]), *inputs[1:]

    parts.rope.register_forward_hook(positions)
    parts.blocks[0].register_forward_pre_hook(enter)
    parts.proj_out.register_forward_hook(lambda module, inputs, out: tokens.gather(out))
    return tokens
