"""Steps to a given alpha PSNR, `merge.init=base` against `random`: reads a Hydra multirun, draws a plot.

    python train.py -m experiment=merge_init
    python -m benchmarks.merge_init multirun/merge_init

Every start has a run for each seed of the sweep.
"""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

RESULTS = Path(__file__).parent / "results"
FIGURES = ("val/alpha/psnr", "val/soft/psnr")


Rows = list[dict[str, float]]


def read_runs(folder: Path) -> dict[str, list[Rows]]:
    """For each start the validation rows of its runs, by ascending seed."""
    found: dict[str, dict[int, Rows]] = {}
    for path in folder.glob("**/config.json"):
        config = json.loads(path.read_text())
        with open(path.parent / "metrics.csv", newline="") as file:
            rows = [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(file)]
        validated = [{name: row[name] for name in ("step", *FIGURES)} for row in rows if FIGURES[0] in row]
        found.setdefault(config["model"]["merge"]["init"], {})[config["seed"]] = validated
    return {init: [runs for _, runs in sorted(by_seed.items())] for init, by_seed in sorted(found.items())}


def steps_to(rows: Rows, figure: str, level: float) -> int | None:
    """The first validated step at which a figure reaches a level."""
    return next((int(row["step"]) for row in rows if row[figure] >= level), None)


def main(folder: str, out: str | Path = RESULTS) -> None:
    runs = read_runs(Path(folder))
    levels = range(10, 40, 2)
    table = {
        figure: {
            level: {init: [steps_to(rows, figure, level) for rows in seeds] for init, seeds in runs.items()}
            for level in levels
        }
        for figure in FIGURES
    }
    out = Path(out)
    out.mkdir(exist_ok=True)
    (out / "merge_init.json").write_text(json.dumps({"runs": runs, "steps_to": table}, indent=2) + "\n")
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), sharex=True)
    for axis, name, title in zip(axes, FIGURES, ("alpha", "soft render"), strict=True):
        for colour, (init, seeds) in enumerate(runs.items()):
            for number, rows in enumerate(seeds):
                steps, values = [r["step"] for r in rows], [r[name] for r in rows]
                label = None if number else f"merge.init={init}"
                axis.plot(steps, values, marker="o", markersize=3, color=f"C{colour}", alpha=0.7, label=label)
        axis.set(title=f"{title}, held-out clips", xlabel="step", ylabel="PSNR (dB)")
        axis.grid(alpha=0.3)
        axis.legend()
    figure.tight_layout()
    figure.savefig(out / "merge_init.png", dpi=120)
    for name in FIGURES:
        print(name)
        for level, by_init in table[name].items():
            if any(step for steps in by_init.values() for step in steps):
                parts = [
                    f"{init} {', '.join('not reached' if step is None else str(step) for step in steps)}"
                    for init, steps in by_init.items()
                ]
                print(f"  {level} dB: {'; '.join(parts)}")


if __name__ == "__main__":
    main(*sys.argv[1:])
