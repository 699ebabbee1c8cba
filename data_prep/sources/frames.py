"""Decoding a raw clip in one pass and in bounded memory, whatever its size, and checking what its alpha says."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import av
import numpy as np

from data_prep.sources import RawClip
from wan_alpha.data.errors import AlphaError, DataError, MediaError
from wan_alpha.data.media import LOSSY, LOSSY_ALPHA_FLOOR, VIDEOS, MediaInfo, Pair, Source, probe, read_frames
from wan_alpha.data.resize import Frames, resize_rgba, to_uint8

BLOCK_PIXELS = 2**24  # of full-size frames that are in memory at once
OPAQUE = 250  # alpha from here on counts as opaque where the border is judged
OPAQUE_BORDER = 0.95  # share of the border's pixels from which alpha looks inverted


def decode(
    clip: RawClip, size: int | None, max_gb: float, treat: Callable[[Frames], Frames] | None = None
) -> tuple[MediaInfo, Frames]:
    """What a clip holds, and all its frames, the short side resized to `size` pixels.

    Args:
        clip: the clip.
        size: short side of the result; none: as it is.
        max_gb: frames are not kept if they would take more than so many gigabytes (10^9 bytes).
        treat: applied to every block of full-size frames before they are resized.

    Returns:
        Its info, and uint8 (T, H, W, 4), straight colour.

    Raises:
        DataError: the clip cannot be decoded, its halves do not fit each other, or it is too large.
    """
    info = probe(clip.media, clip.ext or None, clip.key)
    height, width = info.height, info.width
    if size is not None:
        scale = size / min(height, width)
        height, width = max(size, round(height * scale)), max(size, round(width * scale))
    gigabytes = info.num_frames * height * width * 4 / 1e9
    if gigabytes > max_gb:
        raise DataError(
            f"{clip.key}: {info.num_frames} frames of {height}x{width} take {gigabytes:.1f} GB in memory, more than "
            f"max_gb={max_gb:g}; give a smaller size=, or raise max_gb="
        )
    frames = np.empty((info.num_frames, height, width, 4), np.uint8)
    done = 0
    for block in blocks(clip.media, clip.ext or None, info, clip.key):
        if done + len(block) > info.num_frames:
            raise MediaError(f"{clip.key}: holds more than the {info.num_frames} frames it promised; write it again")
        treated = treat(block) if treat else block
        frames[done : done + len(block)] = treated if size is None else to_uint8(resize_rgba(treated, (height, width)))
        done += len(block)
    if done < info.num_frames:
        raise MediaError(f"{clip.key}: ends after {done} of {info.num_frames} frames; write it again or remove it")
    return info, frames


def check_alpha(key: str, frames: Frames, keep_inverted: bool = False) -> None:
    """Make sure that alpha says something, and the right thing.

    A subject may touch the border of its picture, but hardly ever covers all four sides: alpha that is opaque along the
    whole border and transparent somewhere inside is taken for an inverted matte.

    Raises:
        AlphaError: alpha is constant, or looks inverted and `keep_inverted` is false.
    """
    alpha = frames[..., 3]
    if alpha.min() == alpha.max():
        raise AlphaError(f"{key}: alpha is {alpha.min()} everywhere, so there is nothing to learn from it")
    border = np.concatenate([alpha[:, (0, -1)].ravel(), alpha[:, :, (0, -1)].ravel()])
    share = float((border >= OPAQUE).mean())
    if share >= OPAQUE_BORDER and not keep_inverted:
        raise AlphaError(
            f"{key}: alpha is opaque along {share:.0%} of the border and transparent inside, as if it were inverted; "
            "invert the matte, or give keep_inverted=true if it is meant so"
        )


def blocks(media: Source, ext: str | None, info: MediaInfo, name: str) -> Iterator[Frames]:
    """The frames of a clip in order, some at a time: uint8 (t, H, W, 4), straight colour.

    Args:
        media, ext, name: as in `wan_alpha.data.media.probe`.
        info: what it says.
    """
    count = max(1, BLOCK_PIXELS // (info.height * info.width))
    if isinstance(media, Pair) and media.fgr.suffix.lower() in VIDEOS and media.pha.suffix.lower() in VIDEOS:
        floor = LOSSY_ALPHA_FLOOR if media.pha.suffix.lower() in LOSSY else 0
        frames = zip(_video(media.fgr), _video(media.pha), strict=False)  # the caller counts
        while block := [_joined(colour, matte, floor) for colour, matte in islice(frames, count)]:
            yield np.stack(block)
        return
    if isinstance(media, bytes) or (isinstance(media, Path) and media.suffix.lower() in (".webm", ".webp", ".apng")):
        count = info.num_frames  # each block would be decoded from the start again
    for start in range(0, info.num_frames, count):
        yield read_frames(media, ext, start, min(count, info.num_frames - start), name=name)


def _video(file: Path) -> Iterator[Frames]:
    """The frames of a video as RGB, (H, W, 3), decoded once from start to end."""
    try:
        with av.open(str(file)) as container:
            container.streams.video[0].codec_context.thread_count = 1  # processes are the parallelism
            for frame in container.decode(video=0):
                # One thread: converting with several races now and then and damages rows.
                yield frame.reformat(format="rgb24", threads=1).to_ndarray().astype(np.uint8, copy=False)
    except (OSError, ValueError, IndexError) as error:  # av.error.FFmpegError is one of the first two
        raise MediaError(f"{file}: cannot be decoded ({error}); write the file again or remove it") from error


def _joined(colour: Frames, matte: Frames, floor: int) -> Frames:
    """Colour and a grey matte as RGBA, as `read_frames` joins them; alpha below `floor` becomes 0."""
    if colour.shape != matte.shape:
        raise MediaError(f"a frame of the colour is {colour.shape}, of its matte {matte.shape}; both must agree")
    alpha = np.rint(matte.mean(axis=-1, keepdims=True)).astype(np.uint8)
    alpha[alpha < floor] = 0
    return np.concatenate([colour, alpha], axis=-1)
