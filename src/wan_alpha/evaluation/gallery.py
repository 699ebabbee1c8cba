"""Generated clips with their captions: a page of tiles on a checkerboard, as PNG and as a looping animation."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional as F

from wan_alpha.evaluation.panels import Frames
from wan_alpha.rendering import checkerboard

_PAPER, _INK = (255, 255, 255), (28, 30, 34)
_CAPTION_HEIGHT, _GAP = 38, 12


def on_checkerboard(rgb: Tensor, alpha: Tensor, side: int) -> Frames:
    """A clip as an editor shows it, its shorter side enlarged to about `side` pixels by a whole factor.

    Args:
        rgb: (3, T, H, W) in [-1, 1].
        alpha: (1, T, H, W) in [0, 1].
        side: in pixels.

    Returns:
        (T, H', W', 3) uint8.
    """
    rgb, alpha = rgb.detach().float().cpu().clamp(-1, 1), alpha.detach().float().cpu().clamp(0, 1)
    height, width = rgb.shape[-2:]
    board = checkerboard(height, width, cell=max(1, round(min(height, width) / 12)))[:, None]
    picture = ((rgb * alpha + board * (1 - alpha) + 1) / 2).transpose(0, 1)
    factor = max(1, side // min(height, width))
    picture = F.interpolate(picture, scale_factor=factor, mode="nearest-exact") if factor > 1 else picture
    return (picture * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


def gallery(clips: Sequence[Frames], captions: Sequence[str], columns: int = 6, title: str = "") -> Frames:
    """Clips of one size in a grid, captions under each tile.

    Args:
        clips: results of `on_checkerboard`; shorter ones start again while longer ones play.
        captions: one per clip.
        columns: of the grid, at most.
        title: printed above; "" for none.

    Returns:
        (T, H, W, 3) uint8.
    """
    if not clips or len(clips) != len(captions):
        raise ValueError(f"gallery: {len(clips)} clips and {len(captions)} captions")
    columns = min(columns, len(clips))
    height, width = clips[0].shape[1:3]
    pages = [
        _page([clip[t % len(clip)] for clip in clips], captions, columns, title, height, width)
        for t in range(max(len(clip) for clip in clips))
    ]
    return np.stack(pages)


def _page(
    tiles: Sequence[NDArray[np.uint8]], captions: Sequence[str], columns: int, title: str, height: int, width: int
) -> NDArray[np.uint8]:
    rows = -(-len(tiles) // columns)
    top = 34 if title else _GAP
    size = (_GAP + columns * (width + _GAP), top + rows * (height + _CAPTION_HEIGHT + _GAP))
    page = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(page)
    font, big = ImageFont.load_default(12), ImageFont.load_default(16)
    if title:
        draw.text((_GAP, 9), title, _INK, big)
    for n, (tile, caption) in enumerate(zip(tiles, captions, strict=True)):
        left, y = _GAP + n % columns * (width + _GAP), top + n // columns * (height + _CAPTION_HEIGHT + _GAP)
        page.paste(Image.fromarray(tile), (left, y))
        lines = textwrap.wrap(caption, max(8, width // 7))[:2]
        draw.multiline_text(
            (left + width / 2, y + height + 4), "\n".join(lines), _INK, font, anchor="ma", align="center"
        )
    return np.asarray(page)
