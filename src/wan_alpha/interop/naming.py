"""Names: diffusers' Wan VAE and our adapters in the words of Wan's and Wan-Alpha's own code.

Everything goes one way, from our name to theirs; the way back is the inverse of the table over all names of a model.
Wan numbers the layers of its decoder through, diffusers groups them into stages of `res_blocks + 1` residual blocks
and one upsampler; otherwise segments of a dotted name are renamed one by one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

DECODERS = {"rgb": "vae_fgr", "alpha": "vae_pha"}
MERGE = "middle.block"

_SEGMENTS = {
    "quant_conv": "conv1",
    "post_quant_conv": "conv2",
    "conv_in": "conv1",
    "down_blocks": "downsamples",
    "blocks": "middle",
    "norm1": "residual.0",
    "conv1": "residual.2",
    "norm2": "residual.3",
    "conv2": "residual.6",
    "conv_shortcut": "shortcut",
    "norm_out": "head.0",
    "conv_out": "head.2",
}
_MID_BLOCK = re.compile(r"\bmid_block\.(resnets|attentions)\.(\d+)")
_UP_BLOCK = re.compile(r"\bup_blocks\.(\d+)\.(resnets|upsamplers)\.(\d+)")
_LORA_NAME = re.compile(r"\.(lora_[AB])\.(?:[^.]+\.)?weight$")
_PREFIX = re.compile(r"^(?:.*?\.)??(?=(?:vae_fgr|vae_pha|middle\.block)\.)")


@dataclass(frozen=True)
class Target:
    """Where a tensor of the authors' checkpoint belongs.

    Attributes:
        kind: `adapter`: trained; `copy`: of a base weight, written by the authors' code; `spare`: likewise, but a part
            of the base that their code does not use and does not write.
        name: of the adapter tensor, or of the base weight.
    """

    kind: Literal["adapter", "copy", "spare"]
    name: str


def wan_name(name: str, res_blocks: int) -> str:
    """Wan's own name of a parameter or module of diffusers' AutoencoderKLWan, or of our merge block.

    Args:
        name: dotted name in diffusers.
        res_blocks: the VAE's `num_res_blocks` (2 in Wan2.1).
    """

    def middle(match: re.Match[str]) -> str:
        return f"middle.{2 * int(match[2]) + (match[1] == 'attentions')}"

    def upsample(match: re.Match[str]) -> str:
        place = int(match[3]) if match[2] == "resnets" else res_blocks + 1
        return f"upsamples.{int(match[1]) * (res_blocks + 2) + place}"

    name = _UP_BLOCK.sub(upsample, _MID_BLOCK.sub(middle, name))
    return ".".join(_SEGMENTS.get(segment, segment) for segment in name.split("."))


def base_table(base: Mapping[str, Tensor], res_blocks: int) -> dict[str, str]:
    """Wan's name -> diffusers' name for every weight of a VAE."""
    return {wan_name(name, res_blocks): name for name in base}


def checkpoint_table(base: Mapping[str, Tensor], adapters: Mapping[str, Tensor], res_blocks: int) -> dict[str, Target]:
    """Every name the authors' RGBA VAE checkpoint can have -> what it is; LoRA names carry the adapter `default`.

    Args:
        base: the weights of the base VAE by diffusers' names (values may be on the meta device).
        adapters: our adapter tensors by name: `merge.*`, `rgb.*`, `alpha.*`.
        res_blocks: the VAE's `num_res_blocks`.
    """
    table = {}
    for name, tensor in adapters.items():
        part, _, rest = name.partition(".")
        if part == "merge":
            table[f"{MERGE}.{wan_name(rest, res_blocks)}"] = Target("adapter", name)
        else:
            module, _, matrix = rest.rpartition(".")
            wrapped = _wrapped(wan_name(module, res_blocks), tensor)
            table[f"{DECODERS[part]}.decoder.{wrapped}.{matrix}.default.weight"] = Target("adapter", name)
    for part in DECODERS.values():
        for name in base:
            theirs, used = wan_name(name, res_blocks), _used(name, part)
            if name.startswith("decoder.") and not name.endswith(".gamma"):
                module, _, leaf = theirs.rpartition(".")
                theirs = f"{_wrapped(module, base[module_weight(name)])}.base_layer.{leaf}"
            table[f"{part}.{theirs}"] = Target("copy" if used else "spare", name)
    return table


def module_weight(name: str) -> str:
    """`x.bias` or `x.weight` -> `x.weight`."""
    return f"{name.rpartition('.')[0]}.weight"


def canonical(key: str) -> str:
    """A name as found in a file -> as in `checkpoint_table`: no foreign prefix, LoRA adapter named `default`."""
    return _LORA_NAME.sub(r".\1.default.weight", _PREFIX.sub("", key))


def _wrapped(module: str, weight: Tensor) -> str:
    """The authors wrap each causal 3D convolution, and no 2D one, in a module whose inner convolution is `conv3D`."""
    return f"{module}.conv3D" if weight.dim() == 5 else module


def _used(name: str, part: str) -> bool:
    """Both decoders are kept whole; one encoder serves both, and the merge block replaces its head."""
    if name.startswith(("decoder.", "post_quant_conv.")):
        return True
    return part == "vae_fgr" and not name.startswith(("quant_conv.", "encoder.norm_out.", "encoder.conv_out."))
