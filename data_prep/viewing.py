"""Pictures of a clip for a model's eyes: the same moments on a checkerboard and on a flat colour."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from wan_alpha.data.folders import FolderSource
from wan_alpha.data.media import Pair, media_files
from wan_alpha.data.resize import resize_rgba
from wan_alpha.rendering import COLOUR_NAMES, COLOURS, checkerboard

VERSION = 1  # of how the pictures are made: answers about other pictures are not taken from the cache
GAP = 4  # pixels between frames
CELL = 12  # pixels of the checkerboard
SIDE_BY_SIDE = 3  # frames in a row


def pictures(source: FolderSource, index: int, count: int, side: int) -> tuple[list[bytes], str]:
    """Two PNGs of up to `count` frames spread over a clip, and the name of the flat colour.

    Every frame's longer side is `side` pixels.  The flat colour is that of the colour set which differs most from what
    is visible, so that dark smoke is not shown on black.

    Raises:
        MediaError: the clip cannot be decoded.
    """
    clip = source.clips[index]
    frames = np.concatenate([source.read(index, place, 1) for place in moments(clip.num_frames, count)])
    scale = side / max(clip.height, clip.width)
    size = max(round(clip.height * scale), 1), max(round(clip.width * scale), 1)
    rgba = resize_rgba(frames, size)
    rgb, alpha = rgba[:, :3], rgba[:, 3:]
    flat = _farthest(rgb, alpha)
    board = checkerboard(*size, CELL).add(1).div(2)
    colour = COLOURS[flat].add(1).div(2)[:, None, None]
    views = [rgb * alpha + ground * (1 - alpha) for ground in (board, colour)]
    return [_png(_grid(view)) for view in views], COLOUR_NAMES[flat]


def moments(num_frames: int, count: int) -> list[int]:
    """Up to `count` frame numbers, evenly spread, each in the middle of its part of the clip."""
    count = min(count, num_frames)
    return [int((step + 0.5) * num_frames / count) for step in range(count)]


def content_hash(media: Path | Pair) -> str:
    """sha256 of the contents of a clip's files, in the order of its frames."""
    digest = hashlib.sha256()
    for file in media_files(media):
        with file.open("rb") as handle:
            digest.update(hashlib.file_digest(handle, "sha256").digest())
    return digest.hexdigest()


def _farthest(rgb: Tensor, alpha: Tensor) -> int:
    """Which colour of the set is farthest from the mean visible colour."""
    mean = (rgb * alpha).sum((0, 2, 3)) / alpha.sum().clamp_min(1e-6)
    return int((COLOURS.add(1).div(2) - mean).norm(dim=1).argmax())


def _grid(frames: Tensor) -> Tensor:
    """(N, 3, H, W) -> one picture (3, H', W') with the frames in reading order, black lines between."""
    count, _, height, width = frames.shape
    columns = min(count, SIDE_BY_SIDE)
    rows = -(-count // columns)
    sheet = torch.zeros(3, rows * (height + GAP) - GAP, columns * (width + GAP) - GAP)
    for number, frame in enumerate(frames):
        top, left = number // columns * (height + GAP), number % columns * (width + GAP)
        sheet[:, top : top + height, left : left + width] = frame
    return sheet


def _png(picture: Tensor) -> bytes:
    buffer = io.BytesIO()
    pixels = picture.mul(255).round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=4)
    return buffer.getvalue()
