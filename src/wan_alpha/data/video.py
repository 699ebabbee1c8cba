"""Video with an alpha plane through PyAV: ProRes 4444, FFV1, VP9, VP8 and whatever else FFmpeg decodes with alpha."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream

from wan_alpha.data.encode import ALPHA_TITLE
from wan_alpha.data.errors import AlphaError, MediaError
from wan_alpha.data.limits import check_size
from wan_alpha.data.misread import ALPHA_DECODERS, check_picture, check_stream
from wan_alpha.data.resize import Frames
from wan_alpha.data.timing import Times

PIXEL_FORMATS = {"RGBA": "rgba", "RGB": "rgb24", "L": "gray"}
# A play list under a false name would make FFmpeg read other files, or ask other machines.
CONTAINERS = {"format_whitelist": "mov,matroska,avi"}
UNSAID = 2  # of FFmpeg's colour spaces


@contextmanager
def _opened(source: Path | bytes, name: str, number: int = 0) -> Iterator[tuple[InputContainer, VideoStream]]:
    """An open container and a video stream of it that can be read as it is.

    Raises:
        MediaError: FFmpeg cannot, or it would be misread; the message names the file.
    """
    try:
        # Without "file:", what stands before a colon in a name would be taken for a protocol.
        place = io.BytesIO(source) if isinstance(source, bytes) else f"file:{source}"
        with av.open(place, "r", options=CONTAINERS) as container:
            if not container.streams.video:
                raise MediaError(f"{name}: expected a video stream, found none")
            stream = container.streams.video[number]
            check_size(name, stream.codec_context.height, stream.codec_context.width)
            check_stream(name, stream)
            yield container, stream
    except MediaError:
        raise
    except (OSError, ValueError, av.error.FFmpegError) as error:
        raise MediaError(
            f"{name}: cannot be decoded ({getattr(error, 'strerror', None) or error}); write it again or remove it"
        ) from error


def _has_alpha(pixel_format: av.VideoFormat | None) -> bool:
    return pixel_format is not None and any(component.is_alpha for component in pixel_format.components)


def _alpha_apart(container: InputContainer) -> bool:
    """Whether colour and alpha are two streams, as `write_x264` writes them."""
    streams = container.streams.video
    return len(streams) == 2 and streams[1].metadata.get("title") == ALPHA_TITLE


def is_alpha_apart(file: Path) -> bool:
    """Whether a file is one that `write_x264` wrote.

    Raises:
        MediaError: it cannot be read.
    """
    with _opened(file, str(file)) as (container, _):
        return _alpha_apart(container)


def _no_alpha(name: str, found: str) -> AlphaError:
    return AlphaError(
        f"{name}: expected an alpha channel, found {found}; export it as ProRes 4444 with alpha, VP9 yuva420p or "
        "FFV1 bgra, or give colour and matte as a pair fgr/ + pha/"
    )


def probe_video(source: Path | bytes, name: str, need_alpha: bool) -> tuple[int, float, int, int]:
    """(num_frames, fps, height, width) of a video; frames are counted without decoding them.

    Raises:
        AlphaError: `need_alpha` and the stream has no alpha plane.
        MediaError: the file cannot be read or holds no frame.
    """
    with _opened(source, name) as (container, stream):
        context = stream.codec_context
        if context.name in ALPHA_DECODERS:  # the alpha plane is a side track: only a tag tells of it
            tags = {key.lower(): value for key, value in stream.metadata.items()}
            alpha = tags.get("alpha_mode") == "1"
        else:
            alpha = _has_alpha(context.format) or _alpha_apart(container)
        if need_alpha and not alpha:
            raise _no_alpha(name, f"{context.name} {context.pix_fmt}")
        num_frames = _count(container, stream)
        if not num_frames:
            raise MediaError(f"{name}: the video has no frames; write the file again or remove it")
        fps = float(stream.average_rate or stream.guessed_rate or 24)
        return num_frames, fps, context.height, context.width


def _count(container: InputContainer, stream: VideoStream) -> int:
    """How many frames are shown: what somebody cut off may still be in the file."""
    if _is_indexed(container, stream):
        return sum(not entry.is_discard for entry in stream.index_entries)
    return stream.frames or sum(_is_shown(packet) for packet in container.demux(stream))


def _is_indexed(container: InputContainer, stream: VideoStream) -> bool:
    """Whether the header says it all: that of a MOV or MP4 does, unless it came in pieces."""
    return container.format.name.startswith("mov") and stream.frames > 0 and len(stream.index_entries) > 0


def _is_shown(packet: av.Packet) -> bool:
    return packet.size > 0 and not packet.is_discard


def video_times(source: Path | bytes, name: str) -> tuple[Times, float]:
    """(when frames are shown, in seconds, ascending; length of the stream's clock tick).  Nothing is decoded."""
    with _opened(source, name) as (container, stream):
        tick = float(stream.time_base or 0.001)
        in_order = not stream.codec_context.codec.reorder  # an index has the times of decoding
        if in_order and _is_indexed(container, stream):
            stamps = [entry.timestamp for entry in stream.index_entries if not entry.is_discard]
        else:
            stamps = [packet.pts for packet in container.demux(stream) if _is_shown(packet) and packet.pts is not None]
        return np.sort(np.asarray(stamps, dtype=np.float64)) * tick, tick


def video_frames(source: Path | bytes, name: str, positions: range, mode: str = "RGBA") -> Iterator[Frames]:
    """Frames `positions` (ascending) of a video, one after the other: uint8 (H, W, channels of `mode`).

    Deeper sources become 8 bit, YUV becomes RGB by the matrix that picture or container names (else BT.601's).
    """
    with _opened(source, name) as (container, stream):
        if mode != "RGBA" or not _alpha_apart(container):
            yield from _stream_frames(container, stream, name, positions, mode)
            return
        with _opened(source, name, 1) as (other, mattes):
            colours = _stream_frames(container, stream, name, positions, "RGB", in_order=True)
            for colour, matte in zip(colours, _stream_frames(other, mattes, name, positions, "L"), strict=True):
                alpha = matte[..., None]
                yield np.concatenate([colour * (alpha > 0), alpha], axis=-1)


def _stream_frames(
    container: InputContainer, stream: VideoStream, name: str, positions: range, mode: str, in_order: bool = False
) -> Iterator[Frames]:
    """Frames of one stream; `in_order`: its packets are known to come in the order of their pictures."""
    wanted = set(positions)
    found = 0
    of_container = stream.codec_context.colorspace  # decoders write over it
    decoder = _decoder(stream, keep_alpha=mode == "RGBA")
    for number, frame in _decode(container, stream, decoder, positions[0], in_order):
        if number in wanted:
            if mode == "RGBA" and not _has_alpha(frame.format):
                raise _no_alpha(name, f"{stream.codec_context.name} {frame.format.name}")
            if frame.is_corrupt:
                raise MediaError(f"{name}: frame {number} is damaged; write the file again or remove it")
            check_picture(name, frame)
            matrix = of_container if frame.colorspace == UNSAID else frame.colorspace
            # One thread: swscale's slice threads race now and then and damage rows, alpha above all.
            picture = frame.reformat(format=PIXEL_FORMATS[mode], src_colorspace=matrix, threads=1)
            yield picture.to_ndarray().astype(np.uint8, copy=False)
            found += 1
        if number >= positions[-1]:
            break
    if found < len(positions):
        raise MediaError(
            f"{name}: frame {positions[-1]} was asked for, but the video ends early; write the file again or remove it"
        )


def _decoder(stream: VideoStream, keep_alpha: bool) -> VideoCodecContext:
    """A decoder with one thread; libvpx, which keeps alpha, takes VP9 of 8 bit alone."""
    context = stream.codec_context
    if keep_alpha and context.name in ALPHA_DECODERS:
        replacement = av.Codec(ALPHA_DECODERS[context.name], "r").create("video")
        replacement.extradata = context.extradata
        context = replacement
    context.thread_count = 1  # loader workers are the parallelism
    return context


def _decode(
    container: InputContainer, stream: VideoStream, decoder: VideoCodecContext, first: int, in_order: bool
) -> Iterator[tuple[int, av.VideoFrame]]:
    """(number, frame) of a stream in order, from `first` or a little before it.

    Where packets come in the order of their pictures, decoding starts at the last key frame before `first`.  VP8 and
    VP9 are decoded from the start: their alpha plane is a stream with key frames of its own.
    """
    can_skip = in_order or (not stream.codec_context.codec.reorder and stream.codec_context.name not in ALPHA_DECODERS)
    waiting: list[av.Packet] = []
    arrived = number = 0
    for packet in container.demux(stream):
        if can_skip and arrived <= first and packet.size:
            if packet.is_keyframe:
                waiting, number = [], arrived
            waiting.append(packet)
            arrived += not packet.is_discard
            if arrived <= first:
                continue
        else:
            waiting.append(packet)
        for ready in waiting:
            for frame in decoder.decode(ready if ready.size else None):
                yield number, frame
                number += 1
        waiting = []
