"""What a finished run answers to whoever chose its configuration, such as Optuna."""

from __future__ import annotations

import csv
import math
from pathlib import Path

from wan_alpha.training.config import RunConfig


class ObjectiveError(ValueError):
    """The run has no such figure."""


def objective(config: RunConfig) -> float | None:
    """The last value of the column `config.objective` of metrics.csv; None if none is asked for.

    Raises:
        ObjectiveError: there is no such column, or its last value is not a finite number.
    """
    if config.objective is None:
        return None
    with open(Path(config.run_dir) / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    values = [float(row[config.objective]) for row in rows if row.get(config.objective)]
    if not values:
        known = ", ".join(sorted({name for row in rows for name in row})) or "-"
        raise ObjectiveError(f"objective={config.objective}: no value in {file.name}; there are: {known}")
    if not math.isfinite(values[-1]):
        raise ObjectiveError(f"objective={config.objective}: {values[-1]} in {file.name}, expected a finite number")
    return values[-1]
