"""A sweep in one table and one plot: what differs between its jobs, and what their last validation gave.

    python -m wan_alpha.training.sweep multirun/NAME [FIGURE]

Writes `sweep.md` and `sweep.png` into the folder.  Jobs may still be running.  FIGURE is a column of metrics.csv that
is plotted over steps; without one, `val/soft/psnr` or `val/loss`, whichever the jobs have.
"""

from __future__ import annotations

import csv
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wan_alpha.training.identity import flatten

FIGURES = ("val/soft/psnr", "val/loss")


class SweepError(ValueError):
    """There is nothing to compare."""


@dataclass(frozen=True)
class Job:
    """One job of a sweep.

    Attributes:
        keys: its configuration, in dots.
        rows: the rows of metrics.csv that a validation wrote, in order of their steps.
    """

    keys: dict[str, Any]
    rows: list[dict[str, float]]


def read_jobs(folder: str | Path) -> list[Job]:
    """All runs below a folder that have started.

    Raises:
        SweepError: there is none.
    """
    jobs = []
    for config in sorted(Path(folder).glob("**/config.json")):
        table = config.with_name("metrics.csv")
        rows: list[dict[str, float]] = []
        if table.exists():
            with open(table, newline="") as file:
                rows = [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(file)]
        validated = [row for row in rows if any(name.startswith("val/") for name in row)]
        jobs.append(Job(flatten(json.loads(config.read_text())), validated))
    if not jobs:
        raise SweepError(f"{folder}: expected the runs of a sweep (config.json, metrics.csv) below it, found none")
    return jobs


def varied(jobs: list[Job]) -> list[str]:
    """The keys that are not the same for all jobs; where a job lies is no difference."""
    names = dict.fromkeys(name for job in jobs for name in job.keys)
    return [n for n in names if n != "run_dir" and len({json.dumps(job.keys.get(n)) for job in jobs}) > 1]


def shown(value: Any) -> str:
    """A value of a key; four digits tell what a search has drawn."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def label(job: Job, keys: list[str]) -> str:
    return ", ".join(f"{key}={shown(job.keys.get(key))}" for key in keys) or "the only job"


def table(jobs: list[Job], keys: list[str]) -> str:
    """Markdown: a row for each job with its keys, its last validated step, and what that validation gave."""
    figures = sorted({name for job in jobs for row in job.rows for name in row if name.startswith("val/")})
    lines = [[*keys, "step", *figures], ["---", *("---:" for _ in range(len(keys) + len(figures)))]]
    for job in jobs:
        last = job.rows[-1] if job.rows else {}
        step = f"{last['step']:.0f}" if last else "not validated yet"
        values = (f"{last[name]:.4g}" if name in last else "–" for name in figures)
        lines.append([*(shown(job.keys.get(key)) for key in keys), step, *values])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def plot(jobs: list[Job], keys: list[str], figure: str, file: Path) -> None:
    """One line for each job: `figure` over steps; bars where no job has been validated twice."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    canvas, axis = plt.subplots(figsize=(8, 4.5))
    if len(jobs) > 10:
        axis.set_prop_cycle(color=[plt.get_cmap("tab20")(n) for n in range(20)])
    curves = [[(row["step"], row[figure]) for row in job.rows if figure in row] for job in jobs]
    title = f"{file.parent.name}, held-out clips"
    if max(map(len, curves)) == 1:
        ends = [(label(job, keys), *curve[0]) for job, curve in zip(jobs, curves, strict=True) if curve]
        for name, _, value in reversed(ends):
            axis.bar_label(axis.barh(name, value), fmt="%.4g", padding=3)
        steps = ", ".join(sorted({f"{step:.0f}" for _, step, _ in ends}))
        axis.set(xlabel=figure, title=f"{title}, after {steps} steps")
        axis.margins(x=0.15)
    else:
        for job, curve in zip(jobs, curves, strict=True):
            points = zip(*curve, strict=True) if curve else ((), ())
            axis.plot(*points, marker="o", markersize=3, label=label(job, keys))
        axis.set(xlabel="step", ylabel=figure, title=title)
        axis.grid(alpha=0.3)
        canvas.tight_layout()
        # Below the plot: names of many keys are longer than it is wide, and many jobs more than fit into it.
        axis.legend(fontsize="x-small", loc="upper left", bbox_to_anchor=(0, -0.14), ncols=1 if len(keys) > 1 else 3)
    canvas.savefig(file, dpi=120, bbox_inches="tight")
    plt.close(canvas)


def main(folder: str, figure: str | None = None) -> None:
    """Read, compare, write, print.

    Raises:
        SweepError: no job, or none that has the figure.
    """
    jobs = read_jobs(folder)
    known = sorted({name for job in jobs for row in job.rows for name in row})
    chosen = next((name for name in ((figure,) if figure else FIGURES) if name in known), None)
    if chosen is None:
        raise SweepError(
            f"{folder}: no job has {figure or ' or '.join(FIGURES)} yet; there are: {', '.join(known) or '-'}"
        )
    keys = varied(jobs)
    text, target = table(jobs, keys), Path(folder) / "sweep.md"
    partial = target.with_name("sweep.md.tmp")
    partial.write_text(text)
    os.replace(partial, target)
    plot(jobs, keys, chosen, target.with_suffix(".png"))
    print(f"{text}\n{target} and {target.with_suffix('.png')}")


if __name__ == "__main__":
    if not 2 <= len(sys.argv) <= 3:
        sys.exit("usage: python -m wan_alpha.training.sweep FOLDER [FIGURE]")
    try:
        main(*sys.argv[1:])
    except SweepError as error:
        sys.exit(f"error {error}")
