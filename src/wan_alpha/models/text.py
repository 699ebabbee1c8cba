"""Prompts to embeddings, exactly as diffusers' WanPipeline makes them: encode, cut the padding, pad with zeros."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from diffusers.pipelines.wan.pipeline_wan import prompt_clean
from torch import Tensor, nn
from transformers import AutoTokenizer, UMT5Config, UMT5EncoderModel

from wan_alpha.models.base import BaseError, locate_base
from wan_alpha.models.transfer import send

log = logging.getLogger(__name__)

MAX_TOKENS = 512
"""To how many tokens Wan pads every prompt, and from where on it cuts."""


class Prompts(NamedTuple):
    """Embeddings (B, L, C), zero from `lengths` (B,) on; L <= 512.  Lengths stay on the CPU, which reads them."""

    embeddings: Tensor
    lengths: Tensor


class TextEncoder(nn.Module):
    """Tokenizer and UMT5 encoder as one module.

    Args:
        tokenizer: a transformers tokenizer.
        encoder: the UMT5 encoder.
        max_tokens: longer prompts are cut, with a warning that shows what was lost.
    """

    def __init__(self, tokenizer: Any, encoder: UMT5EncoderModel, max_tokens: int = MAX_TOKENS) -> None:
        super().__init__()
        self.tokenizer, self.encoder, self.max_tokens = tokenizer, encoder, max_tokens
        self._warned: set[str] = set()

    @classmethod
    def from_pretrained(cls, base: str | Path, dtype: torch.dtype = torch.float32) -> TextEncoder:
        """The text encoder of a base in diffusers' layout, frozen.

        Raises:
            BaseError: the base has none.
        """
        where = locate_base(base)
        try:
            tokenizer = AutoTokenizer.from_pretrained(where, subfolder="tokenizer")
            encoder = UMT5EncoderModel.from_pretrained(where, subfolder="text_encoder", dtype=dtype)
        except (OSError, ValueError) as error:
            raise BaseError(f"no text encoder at {where!r} ({str(error).splitlines()[0]})") from error
        return cls(tokenizer, encoder.requires_grad_(False).eval())

    @property
    def dim(self) -> int:
        """C, the size of an embedding."""
        return int(self.encoder.config.d_model)

    def forward(self, prompts: Sequence[str], pad_to: int | None = None) -> Prompts:
        """Encode prompts.

        Args:
            prompts: B texts.
            pad_to: L; None gives one padding token more than the longest prompt has tokens.
        """
        ids, mask = self._tokens([prompt_clean(prompt) for prompt in prompts])
        lengths = mask.sum(1)
        device = next(self.encoder.parameters()).device
        ids, mask = send(ids, device), send(mask, device)
        # Of a mask of keys alone transformers asks the device whether it masks anything.  Numbers to be added are
        # understood by every kind of attention; `eager` would add True as 1.
        dtype = next(self.encoder.parameters()).dtype
        keys = (1 - mask.to(dtype)) * torch.finfo(dtype).min
        pairs = keys[:, None, None, :].expand(-1, 1, mask.shape[1], -1)
        hidden = self.encoder(ids, pairs).last_hidden_state * mask[..., None]
        wanted = int(pad_to or min(ids.shape[1] + 1, self.max_tokens))
        padding = hidden.new_zeros(len(hidden), max(0, wanted - hidden.shape[1]), hidden.shape[2])
        return Prompts(torch.cat([hidden, padding], dim=1), lengths)

    def _tokens(self, prompts: list[str]) -> tuple[Tensor, Tensor]:
        self.tokenizer.padding_side = "right"
        tokens = self.tokenizer(
            prompts, padding=True, truncation=True, max_length=self.max_tokens, return_attention_mask=True,
            return_tensors="pt",
        )  # fmt: skip
        if tokens.input_ids.shape[1] == self.max_tokens:
            self._warn_cut(prompts)
        return tokens.input_ids, tokens.attention_mask

    def _warn_cut(self, prompts: list[str]) -> None:
        """Once for each prompt: training meets it again and again."""
        new = dict.fromkeys(prompt for prompt in prompts if prompt not in self._warned)
        self._warned.update(new)
        warn_of_cuts(self.tokenizer, list(new), self.max_tokens)


def warn_of_cuts(tokenizer: Any, prompts: Iterable[str | Sequence[str] | None], max_tokens: int = MAX_TOKENS) -> None:
    """Log what the text encoder is not going to see of prompts that have more than `max_tokens` tokens.

    Args:
        prompts: one or several each, or None.
    """
    for some in prompts:
        for prompt in [some] if isinstance(some, str) else some or ():
            ids = tokenizer(prompt_clean(prompt)).input_ids
            if len(ids) > max_tokens:
                lost = tokenizer.decode(ids[max_tokens - 1 :], skip_special_tokens=True)
                log.warning("a prompt of %d tokens was cut to %d; lost is: ...%s", len(ids), max_tokens, lost.strip())


def new_text_encoder(tokenizer: Any, architecture: dict[str, Any]) -> TextEncoder:
    """A fresh UMT5 encoder for `tokenizer`; `architecture` goes to transformers' UMT5Config."""
    config = UMT5Config(vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, **architecture)
    return TextEncoder(tokenizer, UMT5EncoderModel(config))


def cut_padding(prompts: Prompts) -> list[Tensor]:
    """Each prompt's own embeddings, (n, C): what is worth storing."""
    return [e[: int(n)] for e, n in zip(prompts.embeddings, prompts.lengths, strict=True)]


def pad_prompts(embeddings: Sequence[Tensor], pad_to: int | None = None) -> Prompts:
    """The inverse of `cut_padding`; see `TextEncoder.forward` for `pad_to`."""
    lengths = torch.tensor([len(e) for e in embeddings])
    wanted = int(pad_to or min(int(lengths.max()) + 1, MAX_TOKENS))
    padded = embeddings[0].new_zeros(len(embeddings), wanted, embeddings[0].shape[1])
    for row, e in zip(padded, embeddings, strict=True):
        row[: len(e)] = e
    return Prompts(padded, lengths)
