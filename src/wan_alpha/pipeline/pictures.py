"""Writing animated pictures and sequences: APNG, WebP, PNG and EXR."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image, PngImagePlugin

from wan_alpha.names import SEQUENCE_METADATA
from wan_alpha.pipeline.containers import durations
from wan_alpha.pipeline.pixels import Pixels, linear_light, premultiplied, to_8_bit

# What Pillow raises for a file that is no picture, broken, cut off, or far too large.
UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
_IMAGE_DESCRIPTION = 0x010E  # Exif


def write_apng(pixels: Pixels, fps: float, file: Path, metadata: Mapping[str, str]) -> None:
    """APNG: 8 bit, straight, lossless, endless."""
    _write_animation(pixels, fps, file, "PNG", blend=PngImagePlugin.Blend.OP_SOURCE, pnginfo=_text_chunks(metadata))


def write_webp(pixels: Pixels, fps: float, file: Path, metadata: Mapping[str, str]) -> None:
    """Animated WebP: 8 bit, straight; colour at quality 92, alpha lossless, endless."""
    _write_animation(pixels, fps, file, "WEBP", quality=92, alpha_quality=100, method=4, exif=_exif(metadata))


def _write_animation(pixels: Pixels, fps: float, file: Path, format: str, **options: Any) -> None:
    first, *rest = _images(pixels)
    beat = list(durations(len(pixels), fps))
    first.save(file, format=format, save_all=True, append_images=rest, duration=beat, loop=0, **options)


def write_png_frames(pixels: Pixels, fps: float, folder: Path, metadata: Mapping[str, str]) -> None:
    """A folder of PNG: 8 bit, straight, sRGB, lossless."""
    info = _text_chunks(metadata)
    for number, image in enumerate(_images(pixels)):
        image.save(folder / f"{number:05d}.png", pnginfo=info)
    _describe(folder, len(pixels), fps, metadata, "straight", "sRGB")


def write_exr_frames(pixels: Pixels, fps: float, folder: Path, metadata: Mapping[str, str]) -> None:
    """A folder of OpenEXR: half floats, premultiplied, linear light, as compositors expect them."""
    for number, straight in enumerate(pixels):
        frame = premultiplied(linear_light(straight))
        planes = np.ascontiguousarray(frame.transpose(2, 0, 1)[[1, 2, 0, 3]])  # FFmpeg's order: G, B, R, A
        picture = av.VideoFrame(frame.shape[1], frame.shape[0], "gbrapf32le")
        for plane, values in zip(picture.planes, planes, strict=True):
            row = np.zeros((plane.height, plane.line_size // 4), np.float32)
            row[:, : plane.width] = values
            plane.update(row.tobytes())
        encoder = av.Codec("exr", "w").create("video")
        encoder.width, encoder.height, encoder.pix_fmt = frame.shape[1], frame.shape[0], "gbrapf32le"
        encoder.time_base, encoder.options = Fraction(1, 24), {"format": "half", "compression": "zip16"}
        packets = [*encoder.encode(picture), *encoder.encode(None)]
        (folder / f"{number:05d}.exr").write_bytes(b"".join(bytes(packet) for packet in packets))
    _describe(folder, len(pixels), fps, metadata, "premultiplied", "linear, BT.709 primaries")


def _images(pixels: Pixels) -> Iterator[Image.Image]:
    return (Image.fromarray(to_8_bit(frame)) for frame in pixels)


def _text_chunks(metadata: Mapping[str, str]) -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    info.add(b"sRGB", b"\x00")  # perceptual intent: the numbers are sRGB
    for key, value in metadata.items():
        info.add_itxt(key, value)
    return info


def _exif(metadata: Mapping[str, str]) -> bytes:
    """A TIFF header at once, as WebP wants it: the prefix is JPEG's, and strict readers stop at it."""
    exif = Image.Exif()
    exif[_IMAGE_DESCRIPTION] = json.dumps(dict(metadata))
    return exif.tobytes().removeprefix(b"Exif\x00\x00")


def _describe(folder: Path, count: int, fps: float, metadata: Mapping[str, str], alpha: str, colour: str) -> None:
    about = {"frames": count, "fps": fps, "alpha": alpha, "colour": colour, **metadata}
    (folder / SEQUENCE_METADATA).write_text(json.dumps(about, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
