"""Shards of the same clips in each codec: bytes, how fast they decode, and what is lost.

    python -m benchmarks.codecs [--shards assets/fluent-sample] [--split val] [--clips 12]

The clips of a split are packed three times by `data_prep.shard`: as the WebP files they come as, as FFV1, and as x264
colour beside FFV1 alpha.  Then whole clips are decoded, and windows of 17 frames from their middle, as training does;
times are processor time of one thread, the best of several rounds.  Quality is PSNR of colour where alpha > 0.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

mpl.use("Agg")
from matplotlib import pyplot as plt

from data_prep import shard
from data_prep.ingest import write_records
from wan_alpha.data.shards import ShardSource

RESULTS = Path(__file__).parent / "results"
FORMS = {"original WebP": ("ffv1", True), "FFV1": ("ffv1", False), "x264 + FFV1 alpha": ("x264", False)}
WINDOW = 17


def unpack(source: ShardSource, clips: int, folder: Path) -> None:
    """The first clips of some shards as a data set folder."""
    records = []
    for index in range(min(clips, len(source))):
        clip = source.clips[index]
        media = f"{clip.key}.{source.describe(index).rsplit('.', 1)[1]}"
        (folder / media).write_bytes(source._bytes(index))
        meta = {name: value for name, value in clip.meta.items() if name != "crc32"}
        records.append(meta | {"key": clip.key, "media": media, "caption": clip.caption, "split": "train"})
    write_records(folder, records)


def processor_time(work: Callable[[], Any], rounds: int) -> float:
    """Seconds of processor time that a call takes, the best of several rounds."""
    best = float("inf")
    for _ in range(rounds):
        start = time.process_time()
        work()
        best = min(best, time.process_time() - start)
    return best


def measure(folder: Path, clips: Path, codec: str, keep: bool, rounds: int) -> tuple[dict[str, float], list[Any]]:
    """Pack and read the clips in one form: its figures, and all frames."""
    start = time.process_time()
    shard.shard(shard.Options(clips, folder, codec=codec, keep=keep, workers=0))
    packing = time.process_time() - start
    source = ShardSource(folder, "train")
    lengths = [clip.num_frames for clip in source.clips]

    def whole() -> list[Any]:
        return [source.read(index, 0, length) for index, length in enumerate(lengths)]

    def windows() -> None:
        for index, length in enumerate(lengths):
            source.read(index, max(0, (length - WINDOW) // 2), min(WINDOW, length))

    frames = sum(lengths)
    return {
        "megabytes": round(sum(file.stat().st_size for file in folder.glob("*.tar")) / 1e6, 3),
        "frames": frames,
        "packing_frames_per_s": round(frames / packing, 1),
        "whole_clips_frames_per_s": round(frames / processor_time(whole, rounds), 1),
        "windows_frames_per_s": round(
            sum(min(WINDOW, length) for length in lengths) / processor_time(windows, rounds), 1
        ),
    }, whole()


def psnr(found: list[Any], wanted: list[Any]) -> float:
    """PSNR of colour over all pixels with alpha > 0; infinite if they are equal."""
    errors = [
        np.square(a[b[..., 3] > 0][:, :3].astype(float) - b[b[..., 3] > 0][:, :3])
        for a, b in zip(found, wanted, strict=True)
    ]
    mean = float(np.concatenate([error.ravel() for error in errors]).mean())
    return float("inf") if mean == 0 else 10 * np.log10(255**2 / mean)


def draw(forms: dict[str, dict[str, Any]], file: Path) -> None:
    """Bars of size and decoding speed."""
    figure, axes = plt.subplots(1, 3, figsize=(10, 2.6), constrained_layout=True, sharey=True)
    names = list(forms)
    columns = (
        ("megabytes", "shards, MB"),
        ("whole_clips_frames_per_s", "whole clips, frames/s of one core"),
        ("windows_frames_per_s", f"windows of {WINDOW}, frames/s of one core"),
    )
    for axis, (column, title) in zip(axes, columns, strict=True):
        values = [forms[name][column] for name in names]
        bars = axis.barh(names, values, color=["#64748b", "#1f5fa8", "#c2410c"], height=0.6)
        axis.bar_label(bars, [f"{value:,.1f}" if value < 100 else f"{value:,.0f}" for value in values], padding=3)
        axis.set_title(title, fontsize=10)
        axis.set_xlim(0, 1.22 * max(values))
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].invert_yaxis()
    figure.savefig(file, dpi=120)


def main() -> None:
    """Measure, write the result and draw it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=Path, default=Path("assets/fluent-sample"))
    parser.add_argument("--split", default="val")
    parser.add_argument("--clips", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    forms: dict[str, dict[str, Any]] = {}
    wanted: list[Any] = []
    with tempfile.TemporaryDirectory() as name:
        clips = Path(name) / "clips"
        clips.mkdir()
        unpack(ShardSource(options.shards, options.split), options.clips, clips)
        for form, (codec, keep) in FORMS.items():
            facts, frames = measure(Path(name) / form.replace(" ", "-"), clips, codec, keep, options.rounds)
            wanted = wanted or frames
            assert all((a[..., 3] == b[..., 3]).all() for a, b in zip(frames, wanted, strict=True))  # always lossless
            quality = psnr(frames, wanted)
            forms[form] = facts | {"colour_psnr_db": "lossless" if quality == float("inf") else round(quality, 2)}
            print(form, forms[form], flush=True)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    result = {
        "command": f"python -m benchmarks.codecs --split {options.split} --clips {options.clips}",
        "commit": commit,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "clips": len(wanted),
        "forms": forms,
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "codecs_fluent.json").write_text(json.dumps(result, indent=1) + "\n")
    draw(forms, RESULTS / "codecs_fluent.png")


if __name__ == "__main__":
    main()
