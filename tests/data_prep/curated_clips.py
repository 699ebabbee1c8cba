"""Clips to curate: every kind of near-duplicate, clips that only look alike at a glance, and faulty ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import hydra
import numpy as np
from PIL import Image

from data_prep.curation.config import CurateConfig
from wan_alpha.command import validated
from wan_alpha.data.media import write_ffv1
from wan_alpha.data.resize import Frames, resize_rgba, to_uint8

ROOT = Path(__file__).resolve().parents[2]


def blobs(seed: int, num_frames: int = 10, side: int = 40, hue: int = 0) -> Frames:
    """Three coloured blobs that wander, each seed its own; `hue` rotates the channels."""
    rng = np.random.default_rng(seed)
    place, pace = rng.uniform(10, 30, (3, 2)), rng.uniform(-0.6, 0.6, (3, 2))
    radius, colours = rng.uniform(4, 10, 3), rng.integers(30, 255, (3, 3))
    frames = np.zeros((num_frames, 40, 40, 4), np.uint8)
    y, x = np.mgrid[:40, :40]
    for t in range(num_frames):
        for number in range(3):
            top, left = place[number] + pace[number] * t
            inside = np.clip((radius[number] - np.hypot(y - top, x - left)) + 0.5, 0, 1)
            frames[t][inside > 0.5, :3] = np.roll(colours[number], hue)
            frames[t, ..., 3] = np.maximum(frames[t, ..., 3], np.rint(255 * inside))
    frames[frames[..., 3] == 0] = 0
    soft = (frames[..., 3] > 0) & (frames[..., :3].sum(axis=-1) == 0)
    frames[soft, :3] = np.roll(colours[0], hue)
    return frames if side == 40 else to_uint8(resize_rgba(frames, (side, side)))


def recompressed(frames: Frames) -> Frames:
    """Through lossy WebP and back."""
    import io

    found = []
    for frame in frames:
        buffer = io.BytesIO()
        Image.fromarray(frame).save(buffer, "WEBP", quality=30)
        found.append(np.asarray(Image.open(buffer).convert("RGBA")))
    return np.stack(found)


def write_folder(root: Path, clips: dict[str, Frames], val: tuple[str, ...] = ()) -> Path:
    """A folder as `data_prep.ingest` leaves it."""
    root.mkdir(parents=True, exist_ok=True)
    records = []
    for key, frames in sorted(clips.items()):
        write_ffv1(frames, 24, root / f"{key}.mkv")
        records.append(
            {
                "key": key, "media": f"{key}.mkv", "caption": f"a {key}", "split": "val" if key in val else "train",
                "fps": 24.0, "num_frames": len(frames), "height": frames.shape[1], "width": frames.shape[2],
            }
        )  # fmt: skip
    (root / "records.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return root


def settings(*overrides: str) -> CurateConfig:
    """What `python -m data_prep.curate ARGUMENTS` gets to see; no threshold, and no processes, unless given."""
    from data_prep.measures.names import MEASURES

    free = [f"thresholds.{name}.{end}=null" for name in MEASURES for end in ("min", "max")]
    with hydra.initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return validated(hydra.compose("curate", [*free, "workers=0", *overrides]), CurateConfig)[0]


def decided(root: Path | str, tmp_path: Path, *overrides: str) -> dict[str, dict[str, Any]]:
    """Rows of curation.parquet by key; what the terminal is told is printed."""
    from data_prep.curation.decide import decide
    from data_prep.curation.report import print_report

    outcome = decide(settings(f"root={root}", f"out={tmp_path / 'out'}", *overrides))
    print_report(outcome, tmp_path)
    return {row["key"]: row for row in outcome.rows}
