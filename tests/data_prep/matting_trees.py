"""Small pictures and clips in the encodings that matting sets use, and the step that ingests them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
from PIL import Image

from data_prep import ingest

Picture = npt.NDArray[np.uint8]
HEIGHT, WIDTH = 32, 48


def colours(seed: int = 0, height: int = HEIGHT, width: int = WIDTH) -> Picture:
    """A smooth picture, (H, W, 3)."""
    y, x = np.mgrid[:height, :width]
    waves = [128 + 90 * np.sin(seed + channel + y / 15 + x / 18) for channel in range(3)]
    return np.stack(waves, axis=-1).astype(np.uint8)


def matte(shift: int = 0, height: int = HEIGHT, width: int = WIDTH) -> Picture:
    """A soft disc, (H, W)."""
    y, x = np.mgrid[:height, :width]
    return np.clip((10 - np.hypot(y - height / 2, x - 16 - shift)) * 50, 0, 255).astype(np.uint8)


def save(picture: Picture, file: Path) -> Path:
    """Write a picture in the encoding that its extension names."""
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(file, quality=95) if file.suffix == ".jpg" else Image.fromarray(picture).save(file)
    return file


def save_pair(fgr: Path, pha: Path, seed: int = 0) -> None:
    save(colours(seed), fgr)
    save(matte(seed), pha)


def rgba(seed: int = 0, num_frames: int = 1) -> Picture:
    """A clip with alpha, (T, H, W, 4)."""
    return np.stack([np.dstack([colours(seed + t), matte(2 * t)]) for t in range(num_frames)])


def save_prores(frames: Picture, file: Path) -> Path:
    """ProRes 4444 with alpha at 24 fps, as editors export it."""
    with av.open(str(file), "w") as out:
        stream = out.add_stream("prores_ks", rate=24, options={"profile": "4444"})
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuva444p10le"
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgba")
            out.mux(stream.encode(picture.reformat(format="yuva444p10le", threads=1)))
        out.mux(stream.encode(None))
    return file


def save_mp4(frames: list[Picture], file: Path, fps: int = 25) -> Path:
    """H.264 with B-frames, as such sets come."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(file), "w") as out:
        stream = out.add_stream("libx264", rate=fps, options={"crf": "10"})
        stream.height, stream.width, stream.pix_fmt = *frames[0].shape[:2], "yuv420p"
        stream.codec_context.thread_count = 1
        for frame in frames:
            rgb = frame if frame.ndim == 3 else np.repeat(frame[..., None], 3, axis=-1)
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")
            out.mux(stream.encode(picture.reformat(format="yuv420p", threads=1)))
        out.mux(stream.encode(None))
    return file


def save_clip(fgr: Path, pha: Path, num_frames: int = 5) -> None:
    """A clip as two mp4 files, or, where the paths have no extension, as two folders of JPEG frames."""
    for target, frames in (
        (fgr, [colours(t) for t in range(num_frames)]),
        (pha, [matte(2 * t) for t in range(num_frames)]),
    ):
        if target.suffix:
            save_mp4(frames, target)
        for number, frame in enumerate([] if target.suffix else frames):
            save(frame, target / f"{number:05d}.jpg")


def run(source: str, root: Path, out: Path, **options: Any) -> dict[str, ingest.Record]:
    """Ingest in this process and return the records by key."""
    chosen: dict[str, Any] = {"workers": 0, "foreground": "none", **options}
    return {
        record["key"]: record for record in ingest.ingest(ingest.Options(source=source, root=root, out=out, **chosen))
    }


def skipped(out: Path) -> list[str]:
    """What the step said it left out."""
    file = out / ingest.SKIPPED
    return file.read_text(encoding="utf-8").splitlines() if file.exists() else []
