"""Decoding a raw clip in one pass and in bounded memory, whatever its size, and checking what its alpha says."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from data_prep.sources import RawClip
from wan_alpha.data.errors import AlphaError, DataError, MediaError
from wan_alpha.data.media import MediaInfo, each_block, frame_times, probe
from wan_alpha.data.premultiplied import Premultiplied, looks_premultiplied, refusal, straighten
from wan_alpha.data.resize import Frames, resize_rgba, to_uint8
from wan_alpha.data.timing import at_constant_rate, variable_rate
from wan_alpha.data.usable import OPAQUE_BORDER, inverted, opaque_border


@dataclass(frozen=True)
class Treatment:
    """What is done to the frames of a clip on their way.

    Attributes:
        size: short side of the result in pixels; none: as it is.
        max_gb: frames are not kept if they would take more than so many gigabytes (10^9 bytes).
        premultiplied: "yes" makes colours straight, "no" takes them as they are, "ask" refuses what looks it.
        constant_fps: rate to which a clip of variable frame rate is resampled; none: it is refused.
        colours: applied to every block of full-size straight frames before they are resized.
    """

    size: int | None = None
    max_gb: float = 4.0
    premultiplied: Premultiplied = "no"
    constant_fps: float | None = None
    colours: Callable[[Frames], Frames] | None = None


def decode(clip: RawClip, treatment: Treatment) -> tuple[MediaInfo, Frames, bool]:
    """What a clip holds once it is treated, and all its frames.

    Returns:
        Its info, with the height and width it has in the source; uint8 (T, H, W, 4), straight colour; and whether these
        are others than those of the source.

    Raises:
        PremultipliedError: it looks premultiplied and nobody has said what it is.
        DataError: the clip cannot be decoded, its halves do not fit each other, or it is too large.
    """
    source = probe(clip.media, clip.ext or None, clip.key)
    order = _order(clip, source, treatment.constant_fps)
    info = source if order is None else replace(source, num_frames=len(order), fps=treatment.constant_fps or 0.0)
    frames = _room(clip.key, info, treatment)
    done, votes = 0, set()
    whole = each_block(clip.media, clip.ext or None, source, clip.key)
    for block in whole if order is None else _in_order(whole, order):
        if treatment.premultiplied == "ask":
            votes.add(looks_premultiplied(block))
        straight = straighten(block, clip.key) if treatment.premultiplied == "yes" else block
        treated = treatment.colours(straight) if treatment.colours else straight
        resized = treated if treatment.size is None else to_uint8(resize_rgba(treated, frames.shape[1:3]))
        frames[done : done + len(block)] = resized
        done += len(block)
    if True in votes and False not in votes:
        raise refusal(clip.key)
    changed = treatment.size is not None or treatment.premultiplied == "yes" or order is not None
    return info, frames, changed or treatment.colours is not None


def _room(key: str, info: MediaInfo, treatment: Treatment) -> Frames:
    """Memory for the frames of the result, once it is sure that they fit."""
    height, width = info.height, info.width
    if treatment.size is not None:
        scale = treatment.size / min(height, width)
        height, width = max(treatment.size, round(height * scale)), max(treatment.size, round(width * scale))
    gigabytes = info.num_frames * height * width * 4 / 1e9
    if gigabytes > treatment.max_gb:
        raise DataError(
            f"{key}: {info.num_frames} frames of {height}x{width} take {gigabytes:.1f} GB in memory, more than "
            f"max_gb={treatment.max_gb:g}; give a smaller size=, or raise max_gb="
        )
    return np.empty((info.num_frames, height, width, 4), np.uint8)


def _order(clip: RawClip, info: MediaInfo, constant_fps: float | None) -> list[int] | None:
    """Which frames make a clip of constant rate, ascending; none: all, once each."""
    times = frame_times(clip.media, clip.ext or None, clip.key)
    if times is None:
        return None
    if constant_fps is None:
        raise variable_rate(clip.key, times)
    if len(times) != info.num_frames:
        raise MediaError(f"{clip.key}: {len(times)} times for {info.num_frames} frames; write the file again")
    return [int(position) for position in at_constant_rate(times, constant_fps)]


def _in_order(whole: Iterator[Frames], order: list[int]) -> Iterator[Frames]:
    """Frames `order` (ascending, with repetitions and gaps) of a clip that comes in blocks."""
    start, rest = 0, deque(order)
    for block in whole:
        chosen = []
        while rest and rest[0] < start + len(block):
            chosen.append(rest.popleft() - start)
        if chosen:
            yield block[chosen]
        start += len(block)


def check_alpha(key: str, frames: Frames, keep_inverted: bool = False) -> None:
    """Make sure that alpha says something, and the right thing (see `wan_alpha.data.usable`).

    Raises:
        AlphaError: alpha is constant, or looks inverted and `keep_inverted` is false.
    """
    alpha = frames[..., 3]
    if alpha.min() == alpha.max():
        raise AlphaError(f"{key}: alpha is {alpha.min()} everywhere, so there is nothing to learn from it")
    share = opaque_border(alpha)
    if share >= OPAQUE_BORDER and not keep_inverted:
        raise inverted(key, share, "give keep_inverted=true")
