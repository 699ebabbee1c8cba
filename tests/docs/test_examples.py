"""The worked examples of docs/extend do what they say."""

from __future__ import annotations

import shutil
import sys
import types
from pathlib import Path
from typing import Any

import hydra
import pytest
import torch
import yaml
from pages import ROOT, apply_diffs, blocks

EXTEND = ROOT / "docs" / "extend"


def run_python(page: Path) -> dict[str, Any]:
    """Run all Python of a page in one namespace, then its tests."""
    namespace: dict[str, Any] = {"__name__": "example"}
    for block in blocks(page):
        if block.language == "python":
            exec(compile(block.text, f"{page.name}: {block.title}", "exec"), namespace)
    for name in [name for name in namespace if name.startswith("test_")]:
        namespace[name]()
    return namespace


def module(name: str, text: str) -> types.ModuleType:
    made = types.ModuleType(name)
    exec(compile(text, name, "exec"), made.__dict__)
    return made


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_every_example_has_code() -> None:
    pages = sorted(page.stem for page in EXTEND.glob("*.md"))
    assert pages == ["base", "baseline", "dataset", "loss"]
    assert all(any(block.language == "python" for block in blocks(EXTEND / f"{page}.md")) for page in pages)


def test_start_in_python() -> None:
    run_python(ROOT / "docs" / "start.md")


def test_a_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    page = EXTEND / "loss.md"
    made = run_python(page)
    flicker = types.ModuleType("wan_alpha.losses.flicker")
    flicker.__dict__["flicker_loss"] = made["flicker_loss"]
    monkeypatch.setitem(sys.modules, "wan_alpha.losses.flicker", flicker)
    name = "wan_alpha.losses.alpha_with_flicker"
    changed = types.ModuleType(name)
    monkeypatch.setitem(sys.modules, name, changed)  # dataclasses look their module up
    exec(compile(apply_diffs(page, "src/wan_alpha/losses/alpha.py"), name, "exec"), changed.__dict__)
    only = dict.fromkeys(("l1", "mse", "perceptual", "edge"), 0.0)
    loss = changed.AlphaVAELoss(weights={**only, "flicker": 2.0, "soft": 0.0, "hard": 0.0})
    alpha = torch.zeros(1, 1, 3, 4, 4)
    blinking = alpha.clone()
    blinking[:, :, 1] = 0.25
    rgb, canvas = torch.zeros(1, 3, 3, 4, 4), torch.zeros(1, 3)
    total, terms = loss(rgb, blinking, rgb, alpha, canvas)
    assert set(terms) == {"alpha/flicker"}
    torch.testing.assert_close(total, 2 * terms["alpha/flicker"])
    assert terms["alpha/flicker"] == pytest.approx(0.5)  # alpha in [0, 1] is a picture in [-1, 1]
    assert '"flicker"' in apply_diffs(page, "src/wan_alpha/training/config.py")
    weights = yaml.safe_load(apply_diffs(page, "conf/stage/vae.yaml"))["loss"]["weights"]
    assert weights["flicker"] == 0


def test_a_data_set() -> None:
    run_python(EXTEND / "dataset.md")
    assert '"myset": myset.clips,' in apply_diffs(EXTEND / "dataset.md", "data_prep/sources/registry.py")


def test_a_base(tmp_path: Path) -> None:
    page = EXTEND / "base.md"
    run_python(page)
    conf = shutil.copytree(ROOT / "conf", tmp_path / "conf", symlinks=False)
    (yaml_block,) = [block for block in blocks(page) if block.language == "yaml"]
    (tmp_path / yaml_block.title).write_text(yaml_block.text)
    for program in ("train", "generate", "evaluate"):
        given = ["out=report"] if program == "evaluate" else []
        with hydra.initialize_config_dir(str(conf), version_base="1.3"):
            tree = hydra.compose(program, ["base=mine", *given])
        assert (tree.base.name, tree.base.path) == ("mine", "bases/mine")


def test_a_baseline() -> None:
    page = EXTEND / "baseline.md"
    run_python(page)
    registry = apply_diffs(page, "src/wan_alpha/baselines/registry.py")
    assert registry.count("HalfCodec") == 1
    assert '"half"]]' in apply_diffs(page, "src/wan_alpha/evaluating/config.py")
