"""VBench runs where it is installed: its input is written here, and its results are read back.

DIR/SYSTEM/videos/ID.mp4      composites on mid-grey
DIR/SYSTEM/prompts.json       {path of the video: prompt}, for --mode=custom_input
DIR/README.txt                the command to run there
DIR/made_of.json              which videos these are: others are refused
DIR/SYSTEM/results/           where that command leaves *_eval_results.json
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from wan_alpha.data.resize import Frames
from wan_alpha.evaluation.networks import composite
from wan_alpha.evaluation.panels import write_mp4

DIMENSIONS = ("subject_consistency", "background_consistency", "motion_smoothness", "dynamic_degree",
              "aesthetic_quality", "imaging_quality")  # fmt: skip
"""What VBench measures on videos of any prompt."""


class VBenchError(ValueError):
    """Results cannot be read."""


def write_video(folder: Path, system: str, clip: str, frames: Frames, fps: float) -> None:
    """One video for VBench, uint8 (T, H, W, 3 or 4)."""
    path = film(folder, system, clip)
    partial = write_mp4(np.rint(composite(frames) * 255).astype(np.uint8), path.with_suffix(".tmp.mp4"), fps)
    partial.replace(path)


def film(folder: Path, system: str, clip: str) -> Path:
    """Where `write_video` writes to."""
    return folder / system / "videos" / f"{clip}.mp4"


def claim(folder: Path, made_of: Mapping[str, Any]) -> None:
    """Write down what the videos of a folder are made of, JSON-able.

    Raises:
        VBenchError: they, and so VBench's results, are those of something else.
    """
    record, text = folder / "made_of.json", json.dumps(made_of, indent=2, ensure_ascii=False, sort_keys=True) + "\n"
    if record.exists() and record.read_text(encoding="utf-8") != text:
        raise VBenchError(f"vbench={folder} holds other videos, and their results: give another folder, or remove it")
    folder.mkdir(parents=True, exist_ok=True)
    record.write_text(text, encoding="utf-8")


def write_prompts(folder: Path, systems: list[str], texts: Mapping[str, str]) -> None:
    """The lists of prompts, and the command."""
    lines = ["Where VBench is installed (pip install vbench), in this folder, for each system:", ""]
    for system in systems:
        listed = {f"{system}/videos/{clip}.mp4": text for clip, text in texts.items()}
        (folder / system / "prompts.json").write_text(json.dumps(listed, indent=2, ensure_ascii=False) + "\n")
        for dimension in DIMENSIONS:
            lines.append(
                f"vbench evaluate --videos_path {system}/videos --mode custom_input --dimension {dimension} "
                f"--prompt_file {system}/prompts.json --output_path {system}/results"
            )
    lines += ["", "Then run evaluate.py again with the same arguments: it reads what it finds in results/."]
    (folder / "README.txt").write_text("\n".join(lines) + "\n")


def read_results(folder: Path, system: str) -> dict[str, dict[str, float]]:
    """clip -> {`vbench_DIMENSION`: value} of one system; empty before VBench has run.

    Raises:
        VBenchError: a file is not in VBench's form, {dimension: [mean, [{video_path, video_results}, ...]]}.
    """
    found: dict[str, dict[str, float]] = {}
    for file in sorted((folder / system / "results").glob("*_eval_results.json")):
        try:
            content: dict[str, Any] = json.loads(file.read_text())
            for dimension, (_, rows) in content.items():
                for row in rows:
                    clip, value = Path(row["video_path"]).stem, row["video_results"]
                    number = math.nan if value is None else float(value)
                    found.setdefault(clip, {})[f"vbench_{dimension}"] = number
        except (ValueError, KeyError, TypeError) as error:
            raise VBenchError(f"{file}: not a result of VBench ({error!r})") from error
    return found
