"""Ingest of Fluent emoji: clips per minute and core, growth from the first clips to the last, and memory.

    python -m benchmarks.ingest --root DIR_WITH_THE_NPM_PACKAGES [--clips 2000] [--size 64]

`python -m data_prep.ingest` runs in one process, and its processor time and resident memory are read from the system
each time it has finished some more clips.  Processor time, not the clock, is what counts: it says what one core does,
however busy the machine is.  The result has a straight line through (clips, seconds) and how far the points lie off it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

mpl.use("Agg")
from matplotlib import pyplot as plt

RESULTS = Path(__file__).parent / "results"
TICK = os.sysconf("SC_CLK_TCK")
EVERY = 20  # clips between two points


def processor_seconds(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def memory_mb(pid: int) -> tuple[float, float]:
    """(resident memory now, its peak so far) of a process in MB."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line)
    now, peak = (int(status[name].split()[0]) / 1000 for name in ("VmRSS", "VmHWM"))
    return now, peak


def count_lines(file: Path) -> int:
    return file.read_bytes().count(b"\n") if file.exists() else 0


def measure(root: Path, clips: int, size: int, minutes: float) -> list[dict[str, float]]:
    """Run the step and return points of (clips, processor seconds, seconds, MB, peak MB)."""
    points: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "data_prep.ingest", "source=fluent", f"root={root}", f"out={folder}"]
        command += [f"size={size}", "skin_tones=true", "workers=0", f"limit={clips}"]
        start = time.monotonic()
        log = Path(folder) / "log.txt"
        with log.open("w") as errors:
            run = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors)
        journal = Path(folder) / "records.jsonl.tmp"
        while run.poll() is None and time.monotonic() - start < 60 * minutes:
            time.sleep(0.5)
            done = count_lines(journal)
            if done >= (points[-1]["clips"] + EVERY if points else 1):
                try:
                    now, peak = memory_mb(run.pid)
                    seconds = processor_seconds(run.pid)
                except (OSError, KeyError):  # it has just ended
                    continue
                points.append(
                    {"clips": done, "cpu_s": seconds, "wall_s": time.monotonic() - start, "mb": now, "peak_mb": peak}
                )
                print(f"{done:5d} clips  {seconds:7.1f} s of one core  {now:6.0f} MB", flush=True)
        if run.poll():  # it ended by itself, and not well
            raise SystemExit(f"data_prep.ingest ended with code {run.returncode}:\n{log.read_text()[-2000:]}")
        run.kill()
        run.wait()
    return points


def summary(points: list[dict[str, float]]) -> dict[str, Any]:
    """A line through the points, how straight it is, and whether memory grows."""
    clips, seconds, memory = (np.array([point[name] for point in points]) for name in ("clips", "cpu_s", "mb"))
    slope, start = np.polyfit(clips, seconds, 1)
    line = slope * clips + start
    early = (clips >= 100) & (clips < 100 + (clips[-1] - 100) / 2)
    late = clips >= 100 + (clips[-1] - 100) / 2
    return {
        "clips": int(clips[-1]),
        "clips_per_minute_and_core": round(60 / slope, 1),
        "cpu_s_to_start": round(float(start), 1),
        "largest_distance_from_line_s": round(float(np.abs(seconds - line).max()), 2),
        "r2": round(float(1 - np.square(seconds - line).sum() / np.square(seconds - seconds.mean()).sum()), 5),
        "mean_mb_first_half": round(float(memory[early].mean()), 1) if early.any() else None,
        "mean_mb_second_half": round(float(memory[late].mean()), 1) if late.any() else None,
        "peak_mb_at_100": next((point["peak_mb"] for point in points if point["clips"] >= 100), None),
        "peak_mb_at_end": points[-1]["peak_mb"],
    }


def draw(points: list[dict[str, float]], facts: dict[str, Any], file: Path) -> None:
    """Processor time and memory over clips."""
    clips = [point["clips"] for point in points]
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), constrained_layout=True)
    left.plot(clips, [point["cpu_s"] for point in points], ".", ms=4, color="#1f5fa8")
    ends = np.array([0, clips[-1]])
    left.plot(ends, facts["cpu_s_to_start"] + ends * 60 / facts["clips_per_minute_and_core"], lw=1, color="#c2410c")
    left.set(xlabel="clips", ylabel="seconds of one core", xlim=(0, None), ylim=(0, None))
    left.set_title(f"{facts['clips_per_minute_and_core']:.0f} clips per minute and core", fontsize=10)
    right.plot(clips, [point["mb"] for point in points], color="#1f5fa8", lw=1, label="resident")
    right.plot(clips, [point["peak_mb"] for point in points], color="#c2410c", lw=1, label="peak so far")
    right.set(xlabel="clips", ylabel="MB", xlim=(0, None), ylim=(0, None))
    right.set_title("memory of the process", fontsize=10)
    right.legend(frameon=False, fontsize=9)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.2)
    figure.savefig(file, dpi=120)


def main() -> None:
    """Measure, write the result and draw it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--clips", type=int, default=2000)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--minutes", type=float, default=60, help="stop after so many minutes by the clock")
    options = parser.parse_args()
    points = measure(options.root, options.clips, options.size, options.minutes)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    facts = summary(points)
    result = {
        "command": f"python -m benchmarks.ingest --clips {options.clips} --size {options.size} "
        f"--minutes {options.minutes:g}",
        "commit": commit,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        **facts,
        "points": [{name: round(value, 2) for name, value in point.items()} for point in points],
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "ingest_fluent.json").write_text(json.dumps(result, indent=1) + "\n")
    draw(points, facts, RESULTS / "ingest_fluent.png")
    print(json.dumps(facts, indent=1))


if __name__ == "__main__":
    main()
