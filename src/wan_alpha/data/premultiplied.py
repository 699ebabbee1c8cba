"""Premultiplied colour: telling it from straight colour, and making it straight.

In a premultiplied picture every channel is colour·alpha, so that no channel exceeds alpha and, where the opacity of one
thing varies, colour falls with alpha to black.  Straight colour knows neither rule.  A picture in which nothing breaks
the first and the second explains the colours far better than a constant does is taken for premultiplied.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from wan_alpha.data.errors import AlphaError, PremultipliedError
from wan_alpha.data.resize import Frames

Premultiplied = Literal["ask", "yes", "no"]
PREMULTIPLIED = ("ask", "yes", "no")

SOFT = (12, 243)  # alpha steps between which a pixel tells
FEWEST = 48  # soft pixels from which there is something to judge
TOLERANCE = 8  # steps by which lossy coding may lift a channel above alpha
EXCESS_SHARE = 0.005  # of the soft pixels, which may break the first rule in a premultiplied picture
STRAIGHT_SHARE = 0.1  # of the soft pixels: a picture in which so many break it is straight, whatever anybody says
EXPLAINED = 0.5  # proportional colours leave at most this share of what a constant leaves unexplained
DARK = 24  # steps at full opacity: below, straight and premultiplied are the same for every eye


def looks_premultiplied(frames: Frames) -> bool | None:
    """Whether the colours of frames, uint8 (T, H, W, 4), are premultiplied by their alpha; none: they do not tell.

    Few soft pixels do not tell, nor do dark ones.
    """
    level, alpha = _soft(frames)
    if len(alpha) < FEWEST:
        return None
    if _excess(level, alpha) > EXCESS_SHARE:
        return False
    slope = float((level * alpha).sum() / (alpha * alpha).sum())
    if slope * 255 < DARK:
        return None
    proportional = float(np.square(level - slope * alpha).sum())
    constant = float(np.square(level - level.mean()).sum())
    return proportional <= EXPLAINED * constant


def straighten(frames: Frames, name: str) -> Frames:
    """Premultiplied frames with straight colour, black where alpha is 0; uint8 (T, H, W, 4) both.

    Args:
        frames: premultiplied.
        name: of the clip, for the message.

    Raises:
        AlphaError: so many colours exceed alpha that the frames must be straight already.
    """
    level, alpha = _soft(frames)
    share = _excess(level, alpha) if len(alpha) >= FEWEST else 0.0
    if share > STRAIGHT_SHARE:
        raise AlphaError(
            f"{name}: colour exceeds alpha in {share:.0%} of the soft pixels, so it is straight already; "
            "give premultiplied=no"
        )
    a = frames[..., 3:].astype(np.uint32)
    colour = (frames[..., :3].astype(np.uint32) * 255 + a // 2) // np.maximum(a, 1)
    return np.concatenate([np.where(a > 0, np.minimum(colour, 255), 0).astype(np.uint8), frames[..., 3:]], axis=-1)


def refusal(name: str) -> PremultipliedError:
    """The error for a clip that looks premultiplied while nobody has said what it is."""
    return PremultipliedError(
        f"{name}: colour is nowhere brighter than alpha and falls with it, as if it were premultiplied; "
        "give premultiplied=yes to make it straight, or premultiplied=no if it is meant so, to data_prep.ingest, or as "
        "data.premultiplied= to train.py"
    )


def _soft(frames: Frames) -> tuple[np.ndarray, np.ndarray]:
    """(brightest channel, alpha) of the soft pixels, float32."""
    alpha = frames[..., 3]
    soft = (alpha > SOFT[0]) & (alpha < SOFT[1])
    return frames[soft][:, :3].max(axis=-1).astype(np.float32), alpha[soft].astype(np.float32)


def _excess(level: np.ndarray, alpha: np.ndarray) -> float:
    """Share of pixels whose colour exceeds alpha."""
    return float((level > alpha + TOLERANCE).mean())
