"""Cross-attention to padded prompts at the price of the words alone.

Wan pads every prompt's embeddings with zeros to 512 tokens and lets the video attend to all of them, without a mask.  n
equal tokens weigh as much as one whose logit is higher by log n: with that added, a few padding tokens stand for all of
them and the result is the same.  For small models, whose video is shorter than 512 tokens, this is most of the time.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from torch import Tensor
from torch.nn import functional as F

from wan_alpha.models.context import TokenGroup
from wan_alpha.models.text import MAX_TOKENS, Prompts
from wan_alpha.models.transfer import send


class FoldedAttention:
    """An attention processor for Wan's layers, equal to diffusers' own.

    Attributes:
        bias: (B, L) added to the logits of the L text tokens, or None: then there are 512 of them.
        context: the ranks that share each clip's tokens, or None.
    """

    def __init__(self) -> None:
        self.bias: Tensor | None = None
        self.context: TokenGroup | None = None

    def weigh(self, prompts: Prompts) -> None:
        """From now on these prompts count as if padded to 512 tokens; see `padding_bias`.

        It holds until the next call: checkpointed blocks run once more in the backward pass, and need it again.
        """
        bias = padding_bias(prompts.lengths, prompts.embeddings.shape[1], MAX_TOKENS)
        self.bias = send(bias, prompts.embeddings.device)

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        crossing = encoder_hidden_states is not None
        source = encoder_hidden_states if encoder_hidden_states is not None else hidden_states
        heads = int(attn.heads)
        query = rotate(attn.norm_q(attn.to_q(hidden_states)).unflatten(2, (heads, -1)), rotary_emb)
        picture = None
        if attn.add_k_proj is not None:  # image-to-video bases put what CLIP sees before the text
            words = MAX_TOKENS if self.bias is None else self.bias.shape[1]
            picture, source = source[:, : source.shape[1] - words], source[:, source.shape[1] - words :]
        key = rotate(attn.norm_k(attn.to_k(source)).unflatten(2, (heads, -1)), rotary_emb)
        value = attn.to_v(source).unflatten(2, (heads, -1))
        if crossing or self.context is None:
            mixed = _attend(query, key, value, self.bias if crossing else None)
        else:
            mixed = self.context.attend(query, key, value.type_as(query))
        if picture is not None:
            key = attn.norm_added_k(attn.add_k_proj(picture)).unflatten(2, (heads, -1))
            mixed = mixed + _attend(query, key, attn.add_v_proj(picture).unflatten(2, (heads, -1)))
        return attn.to_out[1](attn.to_out[0](mixed.type_as(hidden_states)))


def _attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
    """softmax(q kᵀ / √d + bias) v for q, k, v of (B, tokens, heads, d); (B, N, heads·d).

    A bias is only on few tokens: there a matrix of all pairs is small, and in float32 the fold stays exact under bf16.
    """
    query, key, value = (x.transpose(1, 2) for x in (query, key, value))
    if bias is None:
        return F.scaled_dot_product_attention(query, key, value.type_as(query)).transpose(1, 2).flatten(2)
    logits = (query @ key.transpose(-1, -2)).float() * query.shape[-1] ** -0.5 + bias[:, None, None]
    return (logits.softmax(-1).to(value.dtype) @ value).transpose(1, 2).flatten(2)


def rotate(x: Tensor, rotary: tuple[Tensor, Tensor] | None) -> Tensor:
    """Rotary positions on pairs of channels; x (B, N, heads, d)."""
    if rotary is None:
        return x
    cos, sin = (part[..., 0::2].type_as(x) for part in rotary)
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2)


def padding_bias(lengths: Tensor, tokens: int, full: int) -> Tensor:
    """What `tokens - n` padding tokens need to weigh like `full - n` of them: float32 (B, tokens).

    Args:
        lengths: n, the tokens of each prompt, (B,).
        tokens: of the embeddings at hand, more than any n (at least one padding token each) unless n = full.
        full: to how many tokens the base pads (512).
    """
    here, there = (tokens - lengths).float(), (full - lengths).float()
    if bool(((here == 0) & (there > 0)).any()):
        raise ValueError(f"prompts of {lengths.tolist()} tokens leave no padding among {tokens}, and {full} need some")
    bias = torch.where(there > 0, (there / here.clamp(min=1)).clamp(min=1e-30).log(), torch.zeros_like(here))
    is_padding = torch.arange(tokens, device=lengths.device)[None] >= lengths[:, None]
    return torch.where(is_padding, bias[:, None], torch.zeros_like(bias)[:, None])


def fold_text(transformer: WanTransformer3DModel) -> FoldedAttention:
    """Let every attention of `transformer` run through one `FoldedAttention`; `weigh` the prompts before each call."""
    processor = FoldedAttention()
    transformer.set_attn_processor(processor)  # type: ignore[arg-type]
    return processor
