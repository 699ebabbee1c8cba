"""Names of the DiT: diffusers' WanTransformer3DModel in the words of Wan's own code, and the spellings of adapter keys.

Everything goes from diffusers' name to Wan's; the way back is the inverse of the table over all names of a model.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

_TOP = {
    "condition_embedder.text_embedder.linear_1": "text_embedding.0",
    "condition_embedder.text_embedder.linear_2": "text_embedding.2",
    "condition_embedder.time_embedder.linear_1": "time_embedding.0",
    "condition_embedder.time_embedder.linear_2": "time_embedding.2",
    "condition_embedder.time_proj": "time_projection.1",
    "condition_embedder.image_embedder.norm1": "img_emb.proj.0",
    "condition_embedder.image_embedder.ff.net.0.proj": "img_emb.proj.1",
    "condition_embedder.image_embedder.ff.net.2": "img_emb.proj.3",
    "condition_embedder.image_embedder.norm2": "img_emb.proj.4",
    "condition_embedder.image_embedder.pos_embed": "img_emb.emb_pos",
    "proj_out": "head.head",
    "scale_shift_table": "head.modulation",
}
_IN_BLOCK = {
    "attn1": "self_attn",
    "attn2": "cross_attn",
    "norm2": "norm3",
    "scale_shift_table": "modulation",
    "ffn.net.0.proj": "ffn.0",
    "ffn.net.2": "ffn.2",
}
_IN_ATTENTION = {
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "o",
    "add_k_proj": "k_img",
    "add_v_proj": "v_img",
    "norm_added_k": "norm_k_img",
}

Part = Literal["a", "b", "magnitude", "alpha", "diff", "diff_b", "diff_m", "lora_bias"]
# An adapter's name (`default`) may follow the matrix, and `.weight` may be left out: peft writes and strips both.
_PARTS: tuple[tuple[re.Pattern[str], Part], ...] = (
    (re.compile(r"\.(?:lora_A|lora_down)(?:\.(?!weight$)[^.]+)?(?:\.weight)?$"), "a"),
    (re.compile(r"\.(?:lora_B|lora_up)(?:\.(?!weight$|bias$)[^.]+)?\.bias$"), "lora_bias"),
    (re.compile(r"\.(?:lora_B|lora_up)(?:\.(?!weight$)[^.]+)?(?:\.weight)?$"), "b"),
    (re.compile(r"\.lora_magnitude_vector(?:\.(?!weight$)[^.]+)?(?:\.weight)?$"), "magnitude"),
    (re.compile(r"\.dora_scale$"), "magnitude"),
    (re.compile(r"\.alpha$"), "alpha"),
    (re.compile(r"\.diff_b$"), "diff_b"),
    (re.compile(r"\.diff_m$"), "diff_m"),
    (re.compile(r"\.diff$"), "diff"),
)
_PREFIX = re.compile(r"^(?:(?:pipe|model|dit|diffusion_model|transformer|base_model)\.)+")


@dataclass(frozen=True)
class AdapterKey:
    """A key of an adapter file: the module it changes, in whichever names the file uses, and what of it."""

    module: str
    part: Part


def wan_dit_name(name: str) -> str:
    """Wan's own name of a parameter or module of diffusers' WanTransformer3DModel.

    Args:
        name: dotted name in diffusers, such as `blocks.3.attn1.to_q.weight`.
    """
    if not name.startswith("blocks."):
        return _renamed(name, _TOP)
    _, number, rest = name.split(".", 2) if name.count(".") > 1 else (*name.split("."), "")
    rest = _renamed(rest, _IN_BLOCK)
    for attention in ("self_attn.", "cross_attn."):
        if rest.startswith(attention):
            rest = attention + _renamed(rest.removeprefix(attention), _IN_ATTENTION)
    return f"blocks.{number}.{rest}" if rest else f"blocks.{number}"


def dit_table(names: Iterable[str]) -> dict[str, str]:
    """Wan's name -> diffusers' name for every given parameter or module."""
    return {wan_dit_name(name): name for name in names}


def parse_adapter_key(key: str) -> AdapterKey | None:
    """Module and part of a key of a LoRA or DoRA file, or None if it has neither's form.

    Prefixes (`diffusion_model.`, `transformer.`, `base_model.model.`) and the adapter's name are dropped.
    """
    bare = _PREFIX.sub("", key)
    for pattern, part in _PARTS:
        if found := pattern.search(bare):
            return AdapterKey(bare[: found.start()], part)
    return None


def _renamed(name: str, table: dict[str, str]) -> str:
    """The longest leading path of `name` that the table knows, replaced; whole segments only."""
    segments = name.split(".")
    for end in range(len(segments), 0, -1):
        if new := table.get(".".join(segments[:end])):
            return ".".join([new, *segments[end:]])
    return name
