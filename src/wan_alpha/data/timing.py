"""When frames are shown: telling a constant frame rate from a variable one, and making it constant.

A clip is a row of frames at equal distances.  Screen recordings, phones and hand-timed animations are not; taking their
frames as they come would make them run fast here and slow there.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from wan_alpha.data.errors import MediaError

Times = npt.NDArray[np.float64]
JITTER = 0.2  # of the usual distance between frames; containers round to milliseconds
TICKS = 2.0


def is_constant(times: Times, tick: float) -> bool:
    """Whether frames shown at `times` (seconds, ascending) are equally far apart, as far as ticks of `tick` tell."""
    if len(times) < 3:
        return True
    steps = np.diff(times)
    usual = float(np.median(steps))
    return bool(np.abs(steps - usual).max() <= max(TICKS * tick, JITTER * usual))


def at_constant_rate(times: Times, fps: float) -> npt.NDArray[np.int64]:
    """Which frame is on the screen in the middle of each period of 1/fps, until the last one ends, int64.

    The last frame is taken to stay as long as frames usually do.
    """
    start = float(times[0])
    length = float(times[-1]) - start + (float(np.median(np.diff(times))) if len(times) > 1 else 1 / fps)
    moments = start + (np.arange(max(1, round(length * fps))) + 0.5) / fps
    return np.maximum(np.searchsorted(times, moments, side="right") - 1, 0)


def variable_rate(name: str, times: Times) -> MediaError:
    """The error for a clip of variable frame rate for which nobody has chosen a constant one."""
    steps = np.diff(times) * 1000
    return MediaError(
        f"{name}: its frame rate varies (frames last {steps.min():.0f} to {steps.max():.0f} ms); give data_prep.ingest "
        f"constant_fps=24 to resample it, or do it yourself: ffmpeg -i IN -vf fps=24 ... OUT"
    )


def picture_times(data: bytes) -> Times | None:
    """Times of the frames of an animated WebP or APNG; none if the bytes are of neither or do not animate."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        lasting = [int.from_bytes(body[12:15], "little") / 1000 for kind, body in _riff(data) if kind == b"ANMF"]
    elif data[:8] == b"\x89PNG\r\n\x1a\n":
        delays = [struct.unpack(">HH", body[20:24]) for kind, body in _png(data) if kind == b"fcTL" and len(body) >= 24]
        lasting = [numerator / (denominator or 100) for numerator, denominator in delays]
    else:
        return None
    return np.concatenate([[0.0], np.cumsum(lasting)[:-1]]) if lasting else None


def _riff(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(kind, first bytes) of the chunks of a WebP."""
    place = 12
    while place + 8 <= len(data):
        yield data[place : place + 4], data[place + 8 : place + 32]
        size = int.from_bytes(data[place + 4 : place + 8], "little")
        place += 8 + size + size % 2


def _png(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(kind, first bytes) of the chunks of a PNG."""
    place = 8
    while place + 8 <= len(data):
        yield data[place + 4 : place + 8], data[place + 8 : place + 40]
        place += 12 + int.from_bytes(data[place : place + 4], "big")
