"""Readers that are not ours: Debian's ffmpeg and Pillow."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

needs_ffmpeg = pytest.mark.skipif(not shutil.which("ffmpeg"), reason="no ffmpeg here")


def ffmpeg_pixels(file: Path | str, *decoder: str, pixel_format: str = "rgba64le") -> NDArray[np.float64]:
    """(T, H, W, 4) in [0, 1] as ffmpeg decodes it; `decoder` goes before the input."""
    about = probe(file)
    command = ["ffmpeg", "-v", "error", *decoder, "-i", str(file), "-sws_flags", "accurate_rnd+full_chroma_int"]
    command += ["-f", "rawvideo", "-pix_fmt", pixel_format, "-"]
    raw = subprocess.run(command, capture_output=True, check=True).stdout
    dtype, top = (np.uint16, 65535) if "64" in pixel_format or "48" in pixel_format else (np.uint8, 255)
    channels = 3 if pixel_format.startswith("rgb2") else 4
    return np.frombuffer(raw, dtype).reshape(-1, about["height"], about["width"], channels) / top


def probe(file: Path | str) -> dict[str, object]:
    """The video stream's properties, with the tags of the container under `tags`."""
    command = ["ffprobe", "-v", "error", "-show_streams", "-show_format", "-of", "json", str(file)]
    found = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    tags = {key.lower(): value for key, value in found["format"].get("tags", {}).items()}
    return found["streams"][0] | {"tags": tags}


def psnr(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Of values in [0, 1]."""
    return float(-10 * np.log10(max(np.mean((a - b) ** 2), 1e-12)))
