"""What a clip looks like, in a few hundred bytes: perceptual hashes and tiny pictures of some of its frames."""

from __future__ import annotations

import base64
from typing import Any, NamedTuple

import imagehash
import numpy as np
import numpy.typing as npt
from PIL import Image

from wan_alpha.data.resize import Frames, resize_rgba, to_uint8

FRAMES = 5
"""Frames of a clip that are hashed, spread evenly."""
SIDE = 16
GREY = 128
VISIBLE = 25  # steps of 255; fainter pixels do not widen the box around the subject

Hashes = npt.NDArray[np.uint64]


class Look(NamedTuple):
    """`hashes` and `mirrored`: (FRAMES, 2) words of 64 bits, the perceptual hash of the frame on grey and of its alpha,
    as it is and left-right mirrored.  `pictures`: uint8 (FRAMES, 16, 16, 4), premultiplied."""

    hashes: Hashes
    mirrored: Hashes
    pictures: Frames


def look(frames: Frames) -> Look:
    """The look of a clip.

    Everything is taken from the box around all that is ever visible, so that neither size nor place nor the amount of
    empty ground matters.

    Args:
        frames: uint8 (T, H, W, 4), straight colour; `FRAMES` of them are used, or all that there are, some repeatedly.
    """
    seen = frames[..., 3] > VISIBLE
    rows, columns = (np.flatnonzero(seen.any(axis=axes)) for axes in ((0, 2), (0, 1)))
    if len(rows):
        frames = frames[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    chosen = frames[((np.arange(FRAMES) + 0.5) / FRAMES * len(frames)).astype(int)]
    tiny = to_uint8(resize_rgba(chosen, (2 * SIDE, 2 * SIDE)))
    rgba = resize_rgba(chosen, (SIDE, SIDE))
    rgba[:, :3] *= rgba[:, 3:]
    return Look(_hashes(tiny), _hashes(tiny[:, :, ::-1]), to_uint8(rgba))


def _hashes(frames: Frames) -> Hashes:
    """(T, 2) words: the perceptual hashes of straight RGBA frames on grey, and of their alpha."""
    alpha = frames[..., 3:].astype(np.float32) / 255
    on_grey = np.rint(frames[..., :3] * alpha + GREY * (1 - alpha)).astype(np.uint8)
    words = [
        [_word(Image.fromarray(colour)), _word(Image.fromarray(np.ascontiguousarray(frame[..., 3])))]
        for colour, frame in zip(on_grey, frames, strict=True)
    ]
    return np.array(words, dtype=np.uint64)


def _word(picture: Image.Image) -> int:
    """The 64 bits of imagehash's DCT hash."""
    return int(str(imagehash.phash(picture)), 16)


def to_json(found: Look) -> dict[str, Any]:
    """A look as JSON."""
    words = {"hashes": found.hashes.ravel().tolist(), "mirrored": found.mirrored.ravel().tolist()}
    return words | {"pictures": base64.b64encode(found.pictures.tobytes()).decode()}


def from_json(entry: dict[str, Any]) -> Look:
    """What `to_json` made."""
    hashes, mirrored = (np.array(entry[name], np.uint64).reshape(FRAMES, 2) for name in ("hashes", "mirrored"))
    pictures = np.frombuffer(base64.b64decode(entry["pictures"]), np.uint8).reshape(FRAMES, SIDE, SIDE, 4)
    return Look(hashes, mirrored, pictures)
