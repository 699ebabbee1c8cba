"""The workspace, up to the point where a server is spoken to."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from wan_alpha import wandb_dashboard as module


def panels(content: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    sections = content["spec"]["section"]["panelBankConfig"]["sections"]
    return {section["name"]: section["panels"] for section in sections}


def test_what_would_be_sent_has_every_section_plot_and_video(tmp_path: Path) -> None:
    file = tmp_path / "workspace.json"
    module.main(["--entity", "team", "--project", "p", "--json", str(file)])
    content = json.loads(file.read_text())
    assert (content["entity"], content["project"]) == ("team", "p")
    found = panels(content)
    for name, plots in module.SECTIONS.items():
        lines = {p["config"]["chartTitle"]: p["config"] for p in found[name] if "Line" in p["viewType"]}
        assert {title: line["metrics"] for title, line in lines.items()} == plots
        assert {line["xAxis"] for line in lines.values()} == {module.STEP}
        media = [p["config"]["mediaKeys"] for p in found[name] if "Media" in p["viewType"]]
        assert media == ([module.MEDIA[name]] if name in module.MEDIA else [])


def test_without_a_login_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused() -> None:
        raise Exception("not logged in to W&B")

    workspace = type("Workspace", (), {"save": staticmethod(refused)})()
    with pytest.raises(module.DashboardError, match=r"not logged in.*first `wandb login`"):
        module.save(workspace)


def test_without_the_package_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb_workspaces.workspaces", None)
    with pytest.raises(SystemExit, match=r"pip install 'wan-alpha\[dashboard\]'"):
        module.main(["--entity", "team", "--project", "p"])
