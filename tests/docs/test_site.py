"""The documentation site builds strictly: no broken link, no page that is nowhere, no reference that leads nowhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from pages import ROOT, SITE


def test_the_site_builds_strictly(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    finished = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=280, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
    keys = (tmp_path / "config.html").read_text()
    assert "trainer.checkpoint_every_n_steps" in keys
    assert "what an interruption loses at most" in keys
    results = (tmp_path / "results.html").read_text()
    for file in (ROOT / "benchmarks" / "results").glob("*.json"):
        assert file.name in results
        assert (tmp_path / "benchmarks" / "results" / file.name).exists()
    api = (tmp_path / "api.html").read_text()
    assert "wan_alpha.models.alpha_vae.AlphaVAE.encode" in api
    start = (tmp_path / "start.html").read_text()
    assert "https://fonts" not in start  # nothing is fetched from elsewhere
    assert "unpkg" not in start


def test_the_results_page_names_only_experiments_that_exist() -> None:
    page = subprocess.run([sys.executable, SITE / "results_page.py"], capture_output=True, text=True, check=True).stdout
    named = set(re.findall(r"Of `experiment=(\w+)`", page))
    assert named
    assert all((ROOT / "experiments" / f"{name}.yaml").is_file() for name in named), named
