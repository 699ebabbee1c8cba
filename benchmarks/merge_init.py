"""Steps to a given alpha PSNR, `merge.init=base` against `random`: reads a Hydra multirun, draws a plot.

python train.py -m experiment=merge_init model.merge.init=base,random
python -m benchmarks.merge_init multirun/merge_init
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


def read_run(run: Path) -> tuple[str, list[dict[str, float]]]:
    """The start that a run used, and its validation rows."""
    init = json.loads((run / "config.json").read_text())["model"]["merge"]["init"]
    with open(run / "metrics.csv", newline="") as file:
        rows = [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(file)]
    return init, [row for row in rows if FIGURES[0] in row]


def steps_to(rows: list[dict[str, float]], figure: str, level: float) -> int | None:
    """The first validated step at which a figure reaches a level."""
    return next((int(row["step"]) for row in rows if row[figure] >= level), None)


def main(folder: str, out: str | Path = RESULTS) -> None:
    runs = dict(read_run(config.parent) for config in sorted(Path(folder).glob("**/config.json")))
    levels = range(10, 40, 2)
    table = {
        figure: {level: {init: steps_to(rows, figure, level) for init, rows in runs.items()} for level in levels}
        for figure in FIGURES
    }
    out = Path(out)
    out.mkdir(exist_ok=True)
    (out / "merge_init.json").write_text(json.dumps({"runs": runs, "steps_to": table}, indent=2) + "\n")
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), sharex=True)
    for axis, name, title in zip(axes, FIGURES, ("alpha", "soft render"), strict=True):
        for init, rows in runs.items():
            steps, values = [r["step"] for r in rows], [r[name] for r in rows]
            axis.plot(steps, values, marker="o", markersize=3, label=f"merge.init={init}")
        axis.set(title=f"{title}, held-out clips", xlabel="step", ylabel="PSNR (dB)")
        axis.grid(alpha=0.3)
        axis.legend()
    figure.tight_layout()
    figure.savefig(out / "merge_init.png", dpi=120)
    for name in FIGURES:
        print(name)
        for level, by_init in table[name].items():
            if any(by_init.values()):
                parts = [f"{init} {'not reached' if step is None else step}" for init, step in by_init.items()]
                print(f"  {level} dB: {', '.join(parts)}")


if __name__ == "__main__":
    main(*sys.argv[1:])
