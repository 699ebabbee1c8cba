"""Version 2's diffusion prior, with and without: reads a Hydra multirun and compares the held-out clips.

    python train.py -m experiment=tiny_prior loss.prior.weight=1e-9,0.1
    python -m benchmarks.prior multirun/tiny_prior

Of each run: PSNR and SSIM of the held-out clips at the end, their difference clip by clip with its standard error, and
the mean over the last steps of what the term measures: the frozen transformer's error on opaque cells, which the term
pulls down, and on transparent and mixed ones, which it pushes up as far as its ceiling.
"""

from __future__ import annotations

import csv
import json
import statistics
import sys
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
FIGURES = ("alpha/psnr", "alpha/ssim", "soft/psnr", "soft/ssim", "hard/psnr", "hard/ssim")
ERRORS = ("train/prior/opaque", "train/prior/transparent")
LAST = 20  # steps whose mean stands for the end of a run


def read_run(run: Path) -> tuple[float, dict[str, Any]]:
    """The prior's weight, and what the run came to."""
    weight = float(json.loads((run / "config.json").read_text())["loss"]["prior"]["weight"])
    with open(run / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    report = json.loads((run / "metrics.json").read_text())
    errors = {}
    for name in ERRORS:
        values = [float(row[name]) for row in rows if row.get(name)][-LAST:]
        seen = [value for value in values if value]  # 0: no such cell in the batch
        errors[name.removeprefix("train/prior/")] = statistics.fmean(seen) if seen else float("nan")
    ours = report["mean"]["ours"]
    return weight, {
        "step": report["step"],
        "held_out": {name: ours[name] for name in FIGURES},
        "error_of_the_frozen_transformer": errors,
        "clips": report["clips"],
    }


def difference(without: dict[str, Any], with_prior: dict[str, Any]) -> dict[str, dict[str, float]]:
    """With minus without, clip by clip: mean and its standard error."""
    table = {}
    for figure in FIGURES:
        gains = [with_prior["clips"][clip][figure] - values[figure] for clip, values in without["clips"].items()]
        error = statistics.stdev(gains) / len(gains) ** 0.5 if len(gains) > 1 else float("nan")
        table[figure] = {"mean": statistics.fmean(gains), "standard_error": error}
    return table


def main(folder: str, out: str | Path = RESULTS) -> None:
    runs = dict(sorted(read_run(file.parent) for file in Path(folder).glob("**/config.json")))
    if len(runs) != 2:
        raise SystemExit(f"{folder} holds runs with the weights {list(runs)}: expected two, one of them next to 0")
    without, with_prior = runs.values()
    gained = difference(without, with_prior)
    report = {
        "weights": {f"{w:g}": {k: v for k, v in run.items() if k != "clips"} for w, run in runs.items()},
        "gain": gained,
        "clips": len(without["clips"]),
    }
    Path(out).mkdir(exist_ok=True)
    (Path(out) / "prior.json").write_text(json.dumps(report, indent=2) + "\n")
    print(f"{len(without['clips'])} held-out clips, one seed, {with_prior['step']} steps")
    for figure, gain in gained.items():
        a, b = without["held_out"][figure], with_prior["held_out"][figure]
        print(f"{figure:12s} {a:8.3f} -> {b:8.3f}  by clip {gain['mean']:+.3f} ± {gain['standard_error']:.3f}")
    for cells in ("opaque", "transparent"):
        a, b = (run["error_of_the_frozen_transformer"][cells] for run in runs.values())
        print(f"error of the frozen transformer on {cells} cells {a:.3f} -> {b:.3f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
