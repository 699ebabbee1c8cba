"""A sweep's table and plot."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from matplotlib.axes import Axes
from matplotlib.container import BarContainer

from wan_alpha.training import sweep


def job(folder: Path, rate: float, values: list[float]) -> None:
    folder.mkdir(parents=True)
    tree = {"optim": {"lr": rate, "betas": [0.9, 0.99]}, "seed": 0, "run_dir": str(folder)}
    (folder / "config.json").write_text(json.dumps(tree))
    rows = ["step,train/loss,val/soft/psnr"]
    rows += [f"{step},0.5,\n{step},,{value}" for step, value in zip(range(10, 100, 10), values, strict=False)]
    (folder / "metrics.csv").write_text("\n".join(rows) + "\n")


def test_the_figure_that_is_asked_for_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[list[tuple[float, float]]] = []
    monkeypatch.setattr(Axes, "plot", lambda self, x, y, **_: drawn.append(list(zip(x, y, strict=True))) or [])
    job(tmp_path / "a", 0.001, [10.0, 20.0])
    table = tmp_path / "a" / "metrics.csv"
    table.write_text("step,val/soft/psnr,val/alpha/psnr\n10,10.0,5.0\n20,20.0,6.0\n")
    sweep.main(str(tmp_path))
    sweep.main(str(tmp_path), "val/alpha/psnr")
    assert drawn == [[(10, 10.0), (20, 20.0)], [(10, 5.0), (20, 6.0)]]


def test_a_row_for_each_job_with_what_differs_and_its_last_validation(tmp_path: Path) -> None:
    job(tmp_path / "a", 0.001, [10.0, 20.0])
    job(tmp_path / "b", 0.002, [11.0, 22.5])
    job(tmp_path / "c", 0.003, [])
    sweep.main(str(tmp_path))
    assert (tmp_path / "sweep.md").read_text().splitlines() == [
        "| optim.lr | step | val/soft/psnr |",
        "| --- | ---: | ---: |",
        "| 0.001 | 20 | 20 |",
        "| 0.002 | 20 | 22.5 |",
        "| 0.003 | not validated yet | – |",
    ]
    assert (tmp_path / "sweep.png").read_bytes().startswith(b"\x89PNG")


def test_one_validation_each_is_no_curve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[str, float]] = []
    draw = Axes.barh

    def barh(self: Axes, name: str, value: float) -> BarContainer:
        drawn.append((name, value))
        return draw(self, name, value)

    monkeypatch.setattr(Axes, "barh", barh)
    for number, value in enumerate((10.0, 20.0)):
        job(tmp_path / str(number), 0.001 * (number + 1), [value])
    sweep.main(str(tmp_path))
    assert drawn == [("optim.lr=0.002", 20.0), ("optim.lr=0.001", 10.0)]


def test_nothing_to_compare_is_said(tmp_path: Path) -> None:
    with pytest.raises(sweep.SweepError, match="found none"):
        sweep.main(str(tmp_path))
    job(tmp_path / "a", 0.001, [10.0])
    with pytest.raises(sweep.SweepError, match="no job has val/loss yet; there are: step, val/soft/psnr"):
        sweep.main(str(tmp_path), "val/loss")
