"""Where the video looks at the words of its prompt: attention maps, recorded while Wan samples.

Neither map is ever held as a matrix.  The share of cross-attention that a video token gives to some words is attention
whose values are 1 at these words and 0 elsewhere (-1 at words that count against); a map smoothed by self-attention is
attention whose values are the map.  Both are averaged over heads, layers and steps, whatever the length of the video.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.transformers.transformer_wan import WanAttnProcessor, WanTransformer3DModel
from torch import Tensor
from torch.nn import functional as F

from wan_alpha.models.folded_text import rotate


class AttentionMaps:
    """What the recording processors fill.

    Attributes:
        active: record the passes that run now.
        words: (L,) how much each text token counts: 1 for, -1 against, else 0.
    """

    def __init__(self) -> None:
        self.active = False
        self.words = torch.zeros(0)
        self.clear()

    def clear(self) -> None:
        """Forget what was recorded."""
        self._crossing: Tensor | None = None
        self._smoothed: Tensor | None = None
        self._counts = [0, 0]

    @property
    def crossing(self) -> Tensor:
        """Mean share of cross-attention on `words`, (B, N)."""
        if self._crossing is None:
            raise ValueError("no cross-attention was recorded")
        return self._crossing / self._counts[0]

    @property
    def smoothed(self) -> Tensor:
        """`crossing` as it was then, passed along self-attention, (B, N)."""
        return self.crossing if self._smoothed is None else self._smoothed / self._counts[1]

    def look(self, attn: Any, x: Tensor, text: Tensor | None, rotary: tuple[Tensor, Tensor] | None) -> None:
        """Add one attention layer's part; x (B, N, C), text (B, L, C) or None for self-attention."""
        if text is None and self._crossing is None:
            return  # nothing to smooth yet
        source = x if text is None else text
        query = rotate(attn.norm_q(attn.to_q(x)).unflatten(2, (attn.heads, -1)), rotary).transpose(1, 2)
        key = rotate(attn.norm_k(attn.to_k(source)).unflatten(2, (attn.heads, -1)), rotary).transpose(1, 2)
        values = self.crossing if text is None else self.words.to(x.device).expand(len(x), -1)
        values = values.to(query)[:, None, :, None].expand(-1, query.shape[1], -1, 8)  # kernels want a width
        found = F.scaled_dot_product_attention(query, key, values)[..., 0].mean(1).float()
        if text is None:
            self._smoothed = found if self._smoothed is None else self._smoothed + found
        else:
            self._crossing = found if self._crossing is None else self._crossing + found
        self._counts[text is None] += 1


class RecordingProcessor(WanAttnProcessor):
    """Wan's own attention, which `maps` may look at."""

    def __init__(self, maps: AttentionMaps) -> None:
        super().__init__()
        self.maps = maps

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        if self.maps.active:
            self.maps.look(attn, hidden_states, encoder_hidden_states, rotary_emb)
        return super().__call__(attn, hidden_states, encoder_hidden_states, attention_mask, rotary_emb)


def record(transformer: WanTransformer3DModel) -> AttentionMaps:
    """Let every attention of `transformer` be recorded."""
    maps = AttentionMaps()
    transformer.set_attn_processor(RecordingProcessor(maps))  # type: ignore[arg-type]
    return maps
