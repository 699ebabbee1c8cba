"""Every key has a meaning, and the page of keys has every key."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
from pages import SITE

sys.path.insert(0, str(SITE))
import config_page
import yaml_keys
from schema_keys import schema_keys

from wan_alpha.command import valid_keys
from wan_alpha.training.config import RunConfig

PROGRAMS = {program.title: program for program in config_page.PROGRAMS}


@pytest.mark.parametrize("title", PROGRAMS)
def test_every_key_has_a_meaning(title: str) -> None:
    meanings = config_page.meanings(PROGRAMS[title])
    silent = [name for name, meaning in meanings.items() if not meaning.strip()]
    assert not silent, f"put a comment behind these keys, in conf/ or in {PROGRAMS[title].schema}: {', '.join(silent)}"


def test_keys_read_from_the_source_are_those_of_the_schema() -> None:
    """The site imports nothing; the command line does: both know the same keys."""
    program = PROGRAMS["train.py"]
    assert set(config_page.known_keys(program)) == set(valid_keys(RunConfig))


def test_the_page_shows_every_key_with_its_value_and_its_limits() -> None:
    page = config_page.page()
    for program in PROGRAMS.values():
        for name, key in config_page.known_keys(program).items():
            inside = re.search(rf"^\| `{re.escape(name.rpartition('.')[0])}` \| `\{{", page, re.M)
            elsewhere = name.split(".")[0] in program.shared or name in program.groups
            assert f"| `{name}` |" in page or inside or elsewhere, name
            assert not key.type.startswith("Annotated"), key
    assert "| `optim.lr` | `0.003` | number > 0 | learning rate between warm-up and decay |" in page
    assert "| `data.size` | `[64, 64]` | list of 2, each: integer ≥ 1 | height, width in pixels |" in page


@pytest.mark.parametrize(
    ("text", "entries"),
    [
        ("a: 1  # one\n", [("x.a", "1", "one")]),
        ("# of the file\n\n# of a\na: 1\n", [("x.a", "1", "of a")]),
        ("a: '#1'\n", [("x.a", "'#1'", "")]),
        ("a:   # node\n  b: [1, 2]\n  c: null  # c\n",
         [("x.a", "", "node"), ("x.a.b", "[1, 2]", ""), ("x.a.c", "null", "c")]),
        ("a: 1   # one\n       # and more\nb: 2\n", [("x.a", "1", "one and more"), ("x.b", "2", "")]),
        ("defaults: [y]\nhydra:\n  z: 1\na: 1\n", [("x.a", "1", "")]),
    ],
)  # fmt: skip
def test_comments_of_yaml(text: str, entries: list[tuple[str, str, str]], tmp_path: Path) -> None:
    file = tmp_path / "file.yaml"
    file.write_text(text)
    found = yaml_keys.read_file(file, "x.")[1]
    assert [(entry.name, entry.value, entry.comment) for entry in found] == entries


def test_comments_of_a_schema(tmp_path: Path) -> None:
    file = tmp_path / "config.py"
    file.write_text(
        "Count = Annotated[int, Ge(1)]\nName = Literal['a', 'b']\n"
        'class Inner:\n    """What it is."""\n    n: Count  # how many\n'
        "class Config:\n    inner: Inner | None\n    # above\n    kind: Name\n"
        "    weights: dict[Literal['l1'], float]  # w\n"
    )
    keys: dict[str, Any] = {key.name: (key.type, key.meaning) for key in schema_keys(file, "Config")}
    assert keys == {
        "inner": ("keys below, or null", "What it is."),
        "inner.n": ("integer ≥ 1", "how many"),
        "kind": ("a, b", "above"),
        "weights": ("NAME: number", "w"),
        "weights.l1": ("number", ""),
    }
