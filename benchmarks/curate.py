"""What looking at a clip costs `data_prep.curate`, by part, in processor time of one core; and its memory.

    python -m benchmarks.curate DIR [--clips 60] [--out FILE]
    python -m benchmarks.curate DIR --memory 300

Processor time, unlike the clock, hardly depends on what else the machine does.  Clips are taken evenly from the folder.
`--memory` runs the step itself in one process, and reads its resident memory every ten clips until it has seen so many.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from benchmarks.ingest import count_lines, memory_mb
from data_prep.curation import collect, looks
from data_prep.curation.config import MeasureConfig, SheetConfig
from data_prep.curation.duplicates import near_duplicates
from data_prep.measures.clip import measure_group, sample_frames
from wan_alpha.data.folders import FolderSource
from wan_alpha.data.media import read_frames

RESULTS = Path(__file__).parent / "results"
MEASURE, SHEET = MeasureConfig(side=256, frames=48, group=8), SheetConfig(side=96, frames=12, quality=45, max_clips=0)


def seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    """Processor time of a piece of work, and what it returned."""
    begin = time.process_time()
    result = work()
    return time.process_time() - begin, result


def memory(root: Path, clips: int) -> dict[str, Any]:
    """Resident memory of the step in MB over the number of clips that it has looked at."""
    points: list[tuple[int, float, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            "-m",
            "data_prep.curate",
            f"root={root}",
            f"out={folder}",
            "apply=false",
            "workers=0",
        ]
        run = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            while run.poll() is None and (not points or points[-1][0] < clips):
                time.sleep(0.5)
                done = count_lines(Path(folder) / collect.CACHE)
                if done >= (points[-1][0] if points else 0) + 10:
                    points.append((done, *memory_mb(run.pid)))
        finally:
            run.kill()
            run.wait()
    if not points or points[-1][0] < clips:
        raise SystemExit(f"data_prep.curate ended after {points[-1][0] if points else 0} of {clips} clips")
    half = [now for done, now, _ in points if done < clips / 2], [now for done, now, _ in points if done >= clips / 2]
    return {
        "command": f"python -m benchmarks.curate DIR --memory {clips}",
        "clips": points[-1][0],
        "mean_mb_first_half": round(float(np.mean(half[0])), 1),
        "mean_mb_second_half": round(float(np.mean(half[1])), 1),
        "peak_mb_at_50": next(peak for done, _, peak in points if done >= 50),
        "peak_mb_at_end": points[-1][2],
        "points": points,
    }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("root", type=Path)
    parser.add_argument("--clips", type=int, default=60)
    parser.add_argument("--out", type=Path, default=RESULTS / "curate_cpu.json")
    parser.add_argument("--memory", type=int, metavar="CLIPS", help="measure memory instead, over so many clips")
    arguments = parser.parse_args()
    if arguments.memory:
        result = memory(arguments.root, arguments.memory)
        (RESULTS / "curate_memory.json").write_text(json.dumps(result, indent=1) + "\n")
        print(json.dumps({name: value for name, value in result.items() if name != "points"}, indent=1))
        return
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    source = FolderSource(arguments.root, "all")
    chosen = np.unique(np.linspace(0, len(source) - 1, arguments.clips).astype(int))
    items = [collect.Item("set", source.clips[index], source.media(index)) for index in chosen]
    parts: dict[str, float] = {"read": 0.0, "measure": 0.0, "everything": 0.0}
    found = []
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / collect.THUMBNAILS).mkdir()
        collect._see(("warm", items[0]), Path(folder), MEASURE, SHEET)
        for number, item in enumerate(items):
            spans = sample_frames(item.clip.num_frames, MEASURE.frames, MEASURE.group)
            last = spans[-1][0] + spans[-1][1]
            cost, frames = seconds(lambda item=item, last=last: read_frames(item.media, None, 0, last))
            parts["read"] += cost
            groups = [frames[start : start + count] for start, count in spans]
            parts["measure"] += seconds(lambda item=item, groups=groups: _measure(groups, item.clip.fps))[0]
            todo = (str(number), item)
            cost, entry = seconds(lambda todo=todo: collect._see(todo, Path(folder), MEASURE, SHEET))
            parts["everything"] += cost
            found.append(looks.from_json(entry["look"]))
    many = [found[number % len(found)] for number in range(2000)]
    compare, _ = seconds(lambda: near_duplicates(many, 0.0, -1.0))
    result = {
        "clips": len(items),
        "size": f"{items[0].clip.height}x{items[0].clip.width}",
        "seconds_per_clip": {name: round(cost / len(items), 4) for name, cost in parts.items()},
        "clips_per_minute_per_core": round(60 * len(items) / parts["everything"]),
        "seconds_to_compare_2000_clips": round(compare, 2),
        "machine": f"{platform.machine()}, one core, torch {torch.__version__}, OpenCV {cv2.__version__}",
        "command": f"python -m benchmarks.curate DIR --clips {arguments.clips}",
    }
    arguments.out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


def _measure(groups: list[Any], fps: float) -> None:
    for group in groups:
        measure_group(group, fps, MEASURE.side)


if __name__ == "__main__":
    main()
