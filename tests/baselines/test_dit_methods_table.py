"""The table of generators: which learning rate is kept, what the intervals are, what is bold, what failed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image
from scipy import stats

from benchmarks import dit_methods
from wan_alpha.evaluation.prompts import load_prompts


def test_the_table_of_both_methods(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, int, float]] = []

    def train(method: str, seed: int, rate: float, runs: Path, extra: list[str]) -> dict:
        asked.append((method, seed, rate))
        loss = 0.4 if (method, rate) in (("ours", 1e-3), ("paired", 2e-3)) else 0.5
        return {"loss": loss, "trained": 1_500_000, "cpu_seconds": 9.0, "steps": 200, "batch": 16, "shape": [9, 64, 64]}

    def answer(seed: int, rates: dict, runs: Path, shape: list[int]) -> dict:
        assert rates == {"ours": 1e-3, "paired": 2e-3}
        ours = {"temporal_flickering": 0.9, "alpha_floor": 1.0 + seed, "edge_width": 1.0, "background_leak": 0.2}
        paired = ours | {"temporal_flickering": 0.8, "alpha_floor": 7.0, "background_leak": None if seed else 0.1}
        failed = {"background_leak": [2, 18]} if seed else {}
        return {
            "ours": {"figures": ours, "failed": {}, "cpu_seconds": 2.0},
            "paired": {"figures": paired, "failed": failed, "cpu_seconds": 3.0},
        }

    sample = {"temporal_flickering": 0.99, "alpha_floor": 0.0, "edge_width": 1.5, "background_leak": 0.0, "clips": 14}
    monkeypatch.setattr(dit_methods, "train", train)
    monkeypatch.setattr(dit_methods, "answer", answer)
    monkeypatch.setattr(dit_methods, "of_the_sample", lambda config: sample)
    monkeypatch.setattr(dit_methods, "picture", lambda folder, title: Image.new("RGB", (8, 8)))
    monkeypatch.setattr("sys.argv", ["dit_methods", "--out", str(tmp_path / "table"), "--runs", str(tmp_path)])
    dit_methods.main()
    assert set(asked[-6:]) == {(m, s, r) for m, r in (("ours", 1e-3), ("paired", 2e-3)) for s in (0, 1, 2)}
    page = (tmp_path / "table.md").read_text()
    half = stats.t.ppf(0.975, 2) / 3**0.5  # 1, 2, 3 have a standard deviation of 1
    assert f"| alpha floor ×10³ ↓ | **2.000 ± {half:.3f}** | 7.000 ± 0.000 | 0.000 |" in page
    assert "| temporal flickering ↑ | **0.9000 ± 0.0000** | 0.8000 ± 0.0000 | 0.9900 |" in page
    assert "| alpha edge width, px | 1.00 ± 0.00 | 1.00 ± 0.00 | 1.50 |" in page  # neither way is better
    assert "| background leak ×10³ ↓ | 0.200 ± 0.000 | NaN (4 videos) | 0.000 |" in page  # not averaged away
    assert "| learning rate | 0.001 | 0.002 | – |" in page
    assert "| CPU s per video | 2.0 | 3.0 | – |" in page
    assert json.loads((tmp_path / "table.json").read_text())["losses"]["ours"] == {"0.001": 0.4, "0.002": 0.5}


def test_both_methods_see_the_same_data_and_no_prompt_of_the_held_out_ones() -> None:
    configs = {m: dit_methods.configure(m, 1, 1e-3, Path("runs"), [])[0] for m in dit_methods.METHODS}
    ours, paired = configs["ours"], configs["paired"]
    assert (ours.data, ours.trainer, ours.optim, ours.seed) == (paired.data, paired.trainer, paired.optim, paired.seed)
    index = Path("assets/fluent-sample/index.jsonl").read_text().splitlines()
    trained = {row["meta"]["caption"] for row in map(json.loads, index) if row["shard"].startswith("train")}
    for prompt in load_prompts(str(dit_methods.ROOT / dit_methods.PROMPTS)):
        caption = prompt.text.removeprefix("an ").removeprefix("a ")
        assert (caption in trained) == (prompt.category == "trained"), prompt
