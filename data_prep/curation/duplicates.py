"""Which clips are near-duplicates: the same thing, maybe mirrored, scaled, recompressed, shifted or cut shorter.

Two clips are compared frame by frame, each frame with the one most like it in the other clip, so that a clip that
starts later or runs backwards is recognised.  Perceptual hashes look at shapes and shades; whoever passes them is
compared by tiny pictures too, which tell a red heart from a blue one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from data_prep.curation.looks import FRAMES, Hashes, Look

BITS = 128
"""Bits of one frame's two hashes."""
Floats = npt.NDArray[np.float64]


class Pair(NamedTuple):
    """Two near-duplicates by their indices, first < second, and how far they are apart, in [0, 1]."""

    first: int
    second: int
    hash_distance: float
    look_distance: float
    mirrored: bool


def near_duplicates(looks: Sequence[Look], hash_distance: float, look_distance: float) -> list[Pair]:
    """All pairs within both distances, in order.

    Every clip is compared with every other one: 2,000 clips take 8 s of one core, and time grows with the square.

    Args:
        looks: of the clips.
        hash_distance: share of the hashes' bits that may differ.
        look_distance: how much the tiny pictures may differ, see `difference`.
    """
    if not looks:
        return []
    hashes = np.stack([look.hashes for look in looks])
    pairs = []
    for first in range(len(looks) - 1):
        best: dict[int, Pair] = {}
        for mirrored, own in ((False, looks[first].hashes), (True, looks[first].mirrored)):
            distances = _hash_distances(own, hashes[first + 1 :])
            for offset in np.flatnonzero(distances <= hash_distance):
                second = first + 1 + int(offset)
                apart = difference(looks[first], looks[second], mirrored)
                if apart <= look_distance and (second not in best or apart < best[second].look_distance):
                    best[second] = Pair(first, second, float(distances[offset]), apart, mirrored)
        pairs += [best[second] for second in sorted(best)]
    return pairs


def _hash_distances(own: Hashes, others: Hashes) -> Floats:
    """Distances in [0, 1] of one clip, (FRAMES, 2) words, from others, (N, FRAMES, 2)."""
    bits = np.zeros((len(others), FRAMES, FRAMES))
    for word in range(own.shape[1]):
        bits += np.bitwise_count(own[None, :, None, word] ^ others[:, None, :, word])
    return _matched(bits / BITS)


def difference(one: Look, other: Look, mirrored: bool = False) -> float:
    """Mean absolute difference of the tiny pictures, in [0, 1], where either shows something.

    Args:
        one, other: the looks.
        mirrored: compare with the mirror image.
    """
    left = (one.pictures[:, :, ::-1] if mirrored else one.pictures)[:, None].astype(np.float64)
    right = other.pictures[None].astype(np.float64)
    shown = np.maximum(left[..., 3], right[..., 3]).sum(axis=(2, 3))
    apart = np.abs(left - right).mean(axis=-1).sum(axis=(2, 3)) / np.maximum(shown, 1)
    return float(_matched(apart[None])[0])


def _matched(matrix: Floats) -> Floats:
    """Distances (N, frames of one, frames of other) -> (N,): each frame counts with its best partner, both ways."""
    forth, back = matrix.min(axis=2).mean(axis=1), matrix.min(axis=1).mean(axis=1)
    worse: Floats = np.maximum(forth, back)
    return worse
