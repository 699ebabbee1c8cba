"""A generated RGBA video, and `save`: one file per wish, by its suffix."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from wan_alpha.names import SEQUENCE_METADATA
from wan_alpha.pipeline.composite import composite
from wan_alpha.pipeline.containers import write_ffv1, write_h264, write_prores, write_vp9
from wan_alpha.pipeline.edges import bleed_colour, clean_alpha
from wan_alpha.pipeline.pictures import write_apng, write_exr_frames, write_png_frames, write_webp
from wan_alpha.pipeline.pixels import Pixels, straight

Writer = Callable[[Pixels, float, Path, Mapping[str, str]], None]


class OutputError(ValueError):
    """A file cannot be written there, or is there already."""


@dataclass(frozen=True)
class Format:
    """One kind of file: its suffix (a folder has none), its writer, and what it is for."""

    suffix: str
    write: Writer
    purpose: str


FORMATS: dict[str, Format] = {
    "mov": Format(".mov", write_prores, "ProRes 4444: After Effects, Premiere, Resolve, Final Cut"),
    "webm": Format(".webm", write_vp9, "VP9 with alpha: Chrome, Edge, Firefox, OBS, game engines"),
    "mkv": Format(".mkv", write_ffv1, "FFV1: lossless archive, training data"),
    "apng": Format(".apng", write_apng, "every browser, lossless, large"),
    "webp": Format(".webp", write_webp, "every browser, small"),
    "png": Format("", write_png_frames, "frames: Blender, Nuke, game engines, everything"),
    "exr": Format("", write_exr_frames, "frames: linear light, premultiplied, for compositing"),
    "mp4": Format(".mp4", write_h264, "a preview over a background; no alpha"),
}


@dataclass(frozen=True)
class Video:
    """RGBA video.

    Attributes:
        rgb: straight colour (1, 3, T, H, W) in [-1, 1].
        alpha: opacity (1, 1, T, H, W) in [0, 1].
        fps: frames per second.
        metadata: what made it (prompt, seed, adapters, ...); written into every file.
    """

    rgb: Tensor
    alpha: Tensor
    fps: float = 16.0
    metadata: dict[str, Any] = field(default_factory=dict)

    def cleaned(self, threshold: float = 0.02, bleed: int = 8) -> Video:
        """Alpha below `threshold` really zero, and visible colour spread `bleed` pixels outwards; 0 leaves each out."""
        alpha = clean_alpha(self.alpha, threshold)
        return replace(self, rgb=bleed_colour(self.rgb, alpha, bleed), alpha=alpha)

    def pixels(self) -> Pixels:
        """(T, H, W, 4) in [0, 1], straight.

        Raises:
            OutputError: there are numbers that are none in it.
        """
        pixels = straight(self.rgb, self.alpha)
        if np.isnan(pixels.sum()):
            raise OutputError(
                "the video holds NaN: the model left the range of its numbers; take dtype=bfloat16 or float32, or "
                "other adapters"
            )
        return pixels

    def save(
        self,
        path: str | Path,
        format: str | None = None,
        overwrite: bool = False,
        background: str = "checkerboard",
    ) -> Path:
        """Write one file, or one folder of frames.  It appears under its name only when it is complete.

        Args:
            path: the suffix says the format: .mov .webm .mkv .apng .webp .mp4; without one, a folder of frames.
            format: a key of FORMATS, where the path does not say it: `png` (default for folders) or `exr`.
            overwrite: replace what is there.
            background: what .mp4 shows below: `checkerboard`, a colour, or the path of a picture or a video.

        Raises:
            OutputError: unknown format, something is there already, or the place cannot be written to.
        """
        path = Path(path)
        kind = FORMATS[format_of(path, format)]
        if not overwrite and path.exists() and not (path.is_dir() and not any(path.iterdir())):
            raise OutputError(f"{path} exists; give another name, or overwrite=True to replace it")
        _refuse_other_files(path)
        pixels = self.pixels() if kind is not FORMATS["mp4"] else composite(self.pixels(), background, self.fps)
        partial = path.with_name(f".{path.name}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _remove(partial)
            if not kind.suffix:
                partial.mkdir()
            kind.write(pixels, self.fps, partial, self._text())
            if kind.suffix == "" or path.is_dir():
                _remove(path)  # a folder is not replaced by a rename
            os.replace(partial, path)
        except OSError as error:
            raise OutputError(f"{path} cannot be written: {error.strerror or error}") from error
        finally:
            with contextlib.suppress(OSError):
                _remove(partial)
        return path

    def _text(self) -> dict[str, str]:
        """Metadata as text: `title` and `comment` are what players show, `comment` is all of it as JSON."""
        about = {key: value for key, value in self.metadata.items() if value is not None}
        title = str(about.get("prompt") or "wan-alpha")
        return {"title": title, "comment": json.dumps({"made_with": "wan-alpha", **about}, ensure_ascii=False)}


def format_of(path: Path, format: str | None = None) -> str:
    """The key of FORMATS for a path.

    Raises:
        OutputError: no such format, or it does not go with the suffix.
    """
    suffixes = {f.suffix: name for name, f in FORMATS.items() if f.suffix}
    name = format or suffixes.get(path.suffix.lower(), "" if path.suffix else "png")
    known = ", ".join(f"{f.suffix or 'folder/'} ({key})" for key, f in FORMATS.items())
    if name not in FORMATS:
        raise OutputError(f"{path}: no known format; there are {known}")
    if FORMATS[name].suffix and path.suffix.lower() != FORMATS[name].suffix:
        raise OutputError(f"{path}: format {name} is written as {FORMATS[name].suffix}")
    return name


def remove_output(path: Path) -> None:
    """Remove what `save` wrote.

    Raises:
        OutputError: it is a folder with other files in it, or cannot be removed.
    """
    _refuse_other_files(path)
    try:
        _remove(path)
    except OSError as error:
        raise OutputError(f"{path} cannot be removed: {error.strerror or error}") from error


def _refuse_other_files(path: Path) -> None:
    if path.is_dir() and any(path.iterdir()) and not (path / SEQUENCE_METADATA).exists():
        raise OutputError(f"{path} is a folder with other files in it, not frames written before; give another name")


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
