"""metrics.csv that survives being continued."""

from __future__ import annotations

import csv
import logging
import os
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers.logger import Logger
from pytorch_lightning.utilities.rank_zero import rank_zero_only

log = logging.getLogger(__name__)
SPEED = ("train/frames_per_second", "train/data_wait", "train/mfu")
"""Columns that say how fast a step was: all others of a run are the same when it is repeated."""


class MetricsCSV(Logger):
    """One row per logged step, one column per metric, the whole file rewritten atomically.

    Lightning's CSVLogger deletes the earlier file when a run goes on; this one keeps its rows up to the step from
    which the run continues.
    """

    def __init__(self, run_dir: str | Path) -> None:
        super().__init__()
        self.file = Path(run_dir) / "metrics.csv"
        self.rows: dict[int, dict[str, Any]] = {}
        if self.file.exists():
            with open(self.file, newline="") as file:
                self.rows = {int(row["step"]): {k: v for k, v in row.items() if v} for row in csv.DictReader(file)}

    @property
    def name(self) -> str:
        return "csv"

    @property
    def version(self) -> str:
        return ""

    def continue_from(self, step: int) -> None:
        """Forget rows after `step`: the run computes them again."""
        self.rows = {s: row for s, row in self.rows.items() if s <= step}

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        row = self.rows.setdefault(int(step or 0), {"step": int(step or 0)})
        row.update({k: v for k, v in metrics.items() if k != "epoch"})

    @rank_zero_only
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """The resolved configuration is a file of its own."""

    @rank_zero_only
    def save(self) -> None:
        if not self.rows:
            return
        partial = self.file.with_suffix(".csv.tmp")
        try:
            self._write(partial)
            os.replace(partial, self.file)
        except OSError as error:  # a full disk: the next checkpoint ends the run, if it is still full then
            partial.unlink(missing_ok=True)
            log.warning("%s could not be written (%s); its new rows are kept and tried again", self.file, error)

    def _write(self, file: Path) -> None:
        columns = ["step", *sorted({k for row in self.rows.values() for k in row} - {"step"})]
        with open(file, "w", newline="") as table:
            writer = csv.DictWriter(table, columns)
            writer.writeheader()
            writer.writerows(self.rows[step] for step in sorted(self.rows))

    @rank_zero_only
    def finalize(self, status: str) -> None:
        self.save()
