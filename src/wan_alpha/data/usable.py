"""Whether a clip of a folder can be used: it can be read, its rate is constant, and its alpha says something true.

A subject may touch the border of its picture, but hardly ever covers all four sides: alpha that is opaque along the
whole border and transparent somewhere inside is taken for an inverted matte.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from wan_alpha.data.errors import AlphaError
from wan_alpha.data.media import MediaInfo, Pair, each_block, frame_times, probe, read_frames
from wan_alpha.data.premultiplied import Premultiplied, looks_premultiplied, refusal
from wan_alpha.data.timing import variable_rate

OPAQUE = 250  # alpha from here on counts as opaque where the border is judged
OPAQUE_BORDER = 0.95  # share of the border's pixels from which alpha looks inverted


def opaque_border(alpha: npt.NDArray[np.uint8]) -> float:
    """Share of the border's pixels that are opaque; alpha uint8 (T, H, W)."""
    border = np.concatenate([alpha[:, (0, -1)].ravel(), alpha[:, :, (0, -1)].ravel()])
    return float((border >= OPAQUE).mean())


def inverted(name: str, share: float, remedy: str) -> AlphaError:
    """The error for a clip whose border is opaque to this share while something inside is not."""
    return AlphaError(
        f"{name}: alpha is opaque along {share:.0%} of the border and transparent inside, as if it were inverted; "
        f"invert the matte, or {remedy} if it is meant so"
    )


def check_usable(
    media: Path | Pair, premultiplied: Premultiplied, constant_rate: bool, keep_inverted: bool
) -> MediaInfo:
    """Probe a clip, and make sure of what the module's docstring says.

    The middle frame nearly always settles it; only if that one is empty, or opaque along its border, is the whole clip
    decoded.

    Args:
        media: the clip.
        premultiplied: "ask" refuses what looks premultiplied.
        constant_rate: refuse a variable frame rate.
        keep_inverted: take what looks inverted as it is.

    Raises:
        MediaError, AlphaError, PremultipliedError: the clip is not usable; the message names it and says why.
    """
    info, name = probe(media), str(media.pha if isinstance(media, Pair) else media)
    if constant_rate and (times := frame_times(media)) is not None:
        raise variable_rate(name, times)
    frame = read_frames(media, None, info.num_frames // 2, 1)
    if premultiplied == "ask" and looks_premultiplied(frame):
        raise refusal(name)
    alpha = frame[..., 3]
    level = int(alpha.min())
    varies = bool((alpha != level).any())
    if varies and (keep_inverted or opaque_border(alpha) < OPAQUE_BORDER):
        return info
    share = 0.0
    for block in each_block(media, None, info):
        alpha = block[..., 3]
        varies = varies or bool((alpha != level).any())
        share += opaque_border(alpha) * len(block) / info.num_frames
    if not varies:
        raise AlphaError(f"{name}: alpha is {level} of 255 in every pixel of every frame; export it with its matte")
    if share >= OPAQUE_BORDER and not keep_inverted:
        raise inverted(name, share, "ingest the folder with keep_inverted=true (data_prep.ingest source=generic)")
    return info
