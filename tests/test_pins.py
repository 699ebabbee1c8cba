"""The exact versions in constraints.txt."""

from __future__ import annotations

import importlib.metadata
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).resolve().parents[1]


def test_the_oldest_python_may_install_what_is_pinned() -> None:
    """Of the packages that are installed here; Debian's Python, say, is one of the first of its minor version."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    oldest = project["requires-python"].removeprefix(">=") + ".0"
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = {
        r.name.lower(): r.specifier for r in map(Requirement, (line for line in lines if line[:1] not in ("#", "")))
    }
    for installed in importlib.metadata.distributions():
        needs = installed.metadata.get("Requires-Python")
        if needs and installed.version in pins.get(installed.name.lower(), SpecifierSet("<0")):
            assert oldest in SpecifierSet(needs), f"{installed.name}=={installed.version} needs Python {needs}"
