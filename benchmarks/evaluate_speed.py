"""How fast `evaluate.py` measures, and whether its memory grows with the number of clips.

    python -m benchmarks.evaluate_speed

Each size runs in a process of its own, on generated clips (task=generation: one system, nothing else to wait for) or on
the shipped ones (task=reconstruction with the shipped adapters).  Peak memory is the process's largest resident set.
CPU seconds say more than wall seconds where a machine does other things at the same time.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
RESULT = Path(__file__).parent / "results" / "evaluate_speed.json"


def make_clips(folder: Path, count: int, frames: int, side: int) -> None:
    """A soft disc per clip that wanders and changes its colour."""
    from wan_alpha.data.media import write_ffv1

    folder.mkdir(parents=True)
    y, x = np.mgrid[:side, :side]
    for n in range(count):
        clip = np.zeros((frames, side, side, 4), np.uint8)
        for t in range(frames):
            distance = np.hypot(y - side / 2, x - side / 3 - t)
            clip[t, ..., 3] = np.clip((side / 4 - distance) * 60, 0, 255)
            for c in range(3):
                clip[t, ..., c] = 128 + 100 * np.sin(n + c + y / 9 + x / 11)
        write_ffv1(clip, 16, folder / f"{n:04d}.mkv")


def measure(arguments: list[str]) -> dict[str, float]:
    """One evaluation in a process of its own: seconds, CPU seconds, largest resident set."""
    with tempfile.TemporaryFile("w+") as said:
        start = time.perf_counter()
        process = subprocess.Popen([sys.executable, "evaluate.py", *arguments], stdout=said, stderr=said, cwd=ROOT)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        wall = time.perf_counter() - start
        if process.returncode:
            said.seek(0)
            raise RuntimeError(said.read()[-2000:])
    cpu = usage.ru_utime + usage.ru_stime
    return {"wall_s": round(wall, 1), "cpu_s": round(cpu, 2), "peak_mib": round(usage.ru_maxrss / 1024, 1)}


def generation(counts: list[int], frames: int, side: int) -> dict[str, dict[str, float]]:
    """One system, `counts` clips."""
    found = {}
    for count in counts:
        with tempfile.TemporaryDirectory() as name:
            root = Path(name)
            make_clips(root / "clips", count, frames, side)
            (root / "prompts.json").write_text(json.dumps({f"{n:04d}": f"disc {n}" for n in range(count)}))
            places = [f"videos.a={root / 'clips'}", f"prompts={root / 'prompts.json'}", f"out={root / 'out'}"]
            found[str(count)] = measure(["task=generation", *places, "report.ab=false", "report.height=64"])
    return found


def reconstruction(counts: list[int]) -> dict[str, dict[str, float]]:
    """The shipped adapters on the first clips of the shipped training shard, 5x64x64, with LPIPS3 and rFID-VGG."""
    found = {}
    for count in counts:
        with tempfile.TemporaryDirectory() as name:
            plain = ["task=reconstruction", "adapters=tiny", "references=[]", "split=train", "data.num_workers=0"]
            less = ["nine_colours=false", "report.worst=1", "report.players=false", "data.val_batch_size=2"]
            found[str(count)] = measure([*plain, *less, f"max_clips={count}", f"out={name}/out"])
    return found


def per_clip(found: dict[str, dict[str, float]]) -> dict[str, float]:
    """The cost of one more clip, from the smallest to the largest run: start-up does not count."""
    counts = sorted(map(int, found))
    first, last = found[str(counts[0])], found[str(counts[-1])]
    more = counts[-1] - counts[0]
    cpu = (last["cpu_s"] - first["cpu_s"]) / more
    return {
        "cpu_s_per_clip": round(cpu, 3),
        "clips_per_minute_and_core": round(60 / cpu, 1),
        "peak_mib_growth": round(last["peak_mib"] - first["peak_mib"], 1),
    }


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--generation", type=int, nargs="+", default=[8, 32, 96])
    parser.add_argument("--reconstruction", type=int, nargs="+", default=[8, 24, 40])
    options = parser.parse_args()
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    made = generation(options.generation, frames=17, side=64)
    read = reconstruction(options.reconstruction)
    result = {
        "command": "python -m benchmarks.evaluate_speed " + " ".join(sys.argv[1:]),
        "commit": commit,
        "machine": {"cores": os.cpu_count(), "threads": os.environ.get("OMP_NUM_THREADS"), "load": os.getloadavg()[0]},
        "generation 17x64x64": {"clips": made, "one more clip": per_clip(made)},
        "reconstruction 5x64x64": {"clips": read, "one more clip": per_clip(read)},
    }
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
