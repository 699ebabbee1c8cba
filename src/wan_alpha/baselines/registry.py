"""From a path to a system, by what lies there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from wan_alpha.baselines.interface import Codec, UnknownSystemError
from wan_alpha.baselines.ours import AlphaVAECodec, CeilingCodec, FloorCodec
from wan_alpha.models.adapters import AdapterError, locate_adapters
from wan_alpha.models.alpha_vae import AlphaVAE

Loader = Callable[[str, str, torch.device, torch.dtype], Codec | None]
"""(base, path, device, dtype) -> the codec at `path`, or None if something else lies there."""


def _alpha_vae(base: str, path: str, device: torch.device, dtype: torch.dtype) -> Codec | None:
    try:
        locate_adapters(path)
    except AdapterError:
        return None
    return AlphaVAECodec(AlphaVAE.from_pretrained(base, path, dtype).to(device))


CODECS: dict[str, Loader] = {"adapters of stage=vae": _alpha_vae}

REFERENCES: dict[str, Callable[[AlphaVAE], Codec]] = {"ceiling": CeilingCodec, "floor": FloorCodec}
REFERENCE_NOTES = {
    "ceiling": "the frozen base with two latents, one for the hard render and one for alpha",
    "floor": "the frozen base with one latent; alpha ignored, everything opaque",
}


def load_codec(base: str, path: str, device: torch.device, dtype: torch.dtype = torch.float32) -> Codec:
    """The codec whose files lie at `path` (a directory, a run, or a shipped name), on the base it was trained on.

    Raises:
        UnknownSystemError: nothing that is known lies there.
    """
    for load in CODECS.values():
        codec = load(base, path, device, dtype)
        if codec is not None:
            return codec
    raise UnknownSystemError(
        f"{Path(path)}: expected {' or '.join(CODECS)}, an exported directory or a run; found neither"
    )


def load_reference(name: str, base: str, device: torch.device, dtype: torch.dtype = torch.float32) -> Codec:
    """What the frozen base does by itself: "ceiling" or "floor"."""
    return REFERENCES[name](AlphaVAE.from_pretrained(base, None, dtype).to(device))
