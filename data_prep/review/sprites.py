"""All frames of a clip as one picture, which the page's player cuts up: lossless, with alpha, every frame at hand."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image

from wan_alpha.data.errors import DataError
from wan_alpha.data.folders import FolderSource
from wan_alpha.data.media import Pair, each_frame
from wan_alpha.data.resize import resize_rgba, to_uint8
from wan_alpha.data.source import Clip

MAX_SIDE = 480  # of one frame
MAX_FRAMES = 160
MAX_PIXELS = 24e6  # of all frames: more than browsers like to keep as one picture


@dataclass(frozen=True)
class Layout:
    """Where the frames lie: `frames` of `height` x `width` pixels, `columns` in a row, every `stride`th of the clip."""

    frames: int
    stride: int
    height: int
    width: int
    columns: int


def layout(clip: Clip) -> Layout:
    """The layout of a clip's sprite; small clips keep their size."""
    stride = math.ceil(clip.num_frames / MAX_FRAMES)
    frames = math.ceil(clip.num_frames / stride)
    scale = min(1, MAX_SIDE / max(clip.height, clip.width), math.sqrt(MAX_PIXELS / (frames * clip.height * clip.width)))
    height, width = max(1, int(clip.height * scale)), max(1, int(clip.width * scale))
    return Layout(frames, stride, height, width, max(1, math.ceil(math.sqrt(frames * height / width))))


@lru_cache(maxsize=6)
def sprite(source: FolderSource, index: int) -> bytes:
    """The sprite of a clip as PNG.

    Raises:
        DataError: the clip cannot be decoded, or lies outside the folder (behind a link, say).
    """
    clip, media = source.clips[index], source.media(index)
    for part in media if isinstance(media, Pair) else (media,):
        if not part.resolve().is_relative_to(source.root.resolve()):
            raise DataError(f"{clip.key}: lies outside {source.root}, behind a link; the page serves that folder only")
    plan = layout(clip)
    rows = math.ceil(plan.frames / plan.columns)
    sheet = np.zeros((rows * plan.height, plan.columns * plan.width, 4), np.uint8)
    positions = range(0, clip.num_frames, plan.stride)
    for number, frame in enumerate(each_frame(media, None, positions, clip.key)):
        top, left = number // plan.columns * plan.height, number % plan.columns * plan.width
        small = to_uint8(resize_rgba(frame[None], (plan.height, plan.width)))
        sheet[top : top + plan.height, left : left + plan.width] = small[0]
    buffer = io.BytesIO()
    Image.fromarray(sheet).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
