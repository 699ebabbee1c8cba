"""The table of VAE methods: which learning rate is kept, what the intervals are, what is bold."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from scipy import stats

from benchmarks import vae_methods


def test_the_table_of_all_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, int, float]] = []

    def fake(row: str, seed: int, rate: float, runs: Path, extra: list[str]) -> dict:
        asked.append((row, seed, rate))
        psnr = 20.0 + seed + (3.0 if row == "prior" else 0.0) - (5.0 if rate == 2e-3 and row == "four_channel" else 0.0)
        figures = {name: psnr if name.endswith("psnr") else 0.9 for name in vae_methods.FIGURES}
        return {"figures": figures, "references": {"ceiling": figures}, "clips": 12, "trained": 1_500_000,
                "cpu_seconds": 9.0, "steps": 60}  # fmt: skip

    monkeypatch.setattr(vae_methods, "train", fake)
    monkeypatch.setattr("sys.argv", ["vae_methods", "--out", str(tmp_path / "table"), "--runs", str(tmp_path)])
    vae_methods.main()
    assert {(row, rate) for row, _, rate in asked[-15:]} == {
        ("none", 2e-3), ("soft_hard", 2e-3), ("prior", 2e-3), ("four_channel", 5e-4), ("latent_offset", 2e-3),
    }  # fmt: skip
    assert {seed for _, seed, _ in asked[-15:]} == {0, 1, 2}
    page = (tmp_path / "table.md").read_text()
    half = stats.t.ppf(0.975, 2) / 3**0.5  # 20, 21, 22 have a standard deviation of 1
    assert f"| latent offset (LayerDiffuse) | 21.00 ± {half:.2f} |" in page
    assert f"| ours, + rendering + diffusion prior (version 2) | **24.00 ± {half:.2f}** |" in page
    assert "| 1.50 M | 9 | 0.0005 |" in page
    assert "| *ceiling* | 20.00 |" in page
    assert json.loads((tmp_path / "table.json").read_text())["rates"]["alphavae"] == 5e-4
