"""Several RGBA videos in one ordinary video, so that a browser plays them in step over any background.

A page cannot keep several videos on the same frame, and not every browser plays video with alpha.  So all systems stand
side by side in one opaque VP9 video of two rows: above, the colours times alpha; below, 1 - alpha as grey.  The page
draws background x (1 - alpha) and adds the colours, which is the composite exactly, on a plain 2D canvas.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from wan_alpha.data.resize import Frames
from wan_alpha.evaluation.film import VP9, encode

GAP = 8
"""Pixels between two systems, so that compression does not bleed across."""


@dataclass(frozen=True)
class Player:
    """One video for the page.

    Attributes:
        webm: its bytes.
        layout: what the page must know, JSON-able: `height` of a row in pixels, `cells`: system -> (left, width) in a
            row, and `fps`.
    """

    webm: bytes
    layout: dict[str, Any]


def make_player(videos: Mapping[str, Frames], fps: float, height: int) -> Player:
    """Lay videos side by side; shorter ones hold their last frame.

    Args:
        videos: system -> uint8 (T, H, W, 4), straight, or (T, H, W, 3) without alpha.
        fps: frames per second.
        height: of a row; taller videos are reduced to it, smaller ones enlarged by a whole factor as far as they fit.
    """
    rows = {name: _rows(frames, height) for name, frames in videos.items()}
    length = max(colour.shape[0] for colour, _ in rows.values())
    row = max(colour.shape[1] for colour, _ in rows.values())
    row += row % 2
    cells, left = {}, 0
    for name, (colour, _) in rows.items():
        cells[name] = (left, colour.shape[2])
        left += colour.shape[2] + GAP
    canvas = np.zeros((length, 2 * row, left + left % 2, 3), np.uint8)
    canvas[:, row:] = 255
    for name, (colour, hole) in rows.items():
        x, width = cells[name]
        times = np.minimum(np.arange(length), len(colour) - 1)
        top = (row - colour.shape[1]) // 2
        canvas[:, top : top + colour.shape[1], x : x + width] = colour[times]
        canvas[:, row + top : row + top + colour.shape[1], x : x + width] = hole[times]
    webm = io.BytesIO()
    encode(canvas, fps, webm, "webm", VP9)
    return Player(webm.getvalue(), {"height": row, "cells": cells, "fps": fps})


def _rows(frames: Frames, height: int) -> tuple[Frames, Frames]:
    """(colours times alpha, 1 - alpha), both uint8 (T, height, width, 3)."""
    factor = height / frames.shape[1]
    factor = float(max(1, int(factor))) if factor >= 1 else factor
    size = (max(2, round(frames.shape[2] * factor)), max(2, round(frames.shape[1] * factor)))
    how = cv2.INTER_NEAREST if factor > 1 else cv2.INTER_AREA
    rows = np.empty((2, len(frames), size[1], size[0], 3), np.uint8)
    for t, frame in enumerate(frames):
        parts = frame.astype(np.float32) / 255
        alpha = parts[..., 3:] if frame.shape[-1] == 4 else np.ones_like(parts[..., :1])
        for row, picture in zip(rows, (parts[..., :3] * alpha, np.repeat(1 - alpha, 3, axis=-1)), strict=True):
            row[t] = np.rint(cv2.resize(picture, size, interpolation=how) * 255).clip(0, 255)
    return rows[0], rows[1]
