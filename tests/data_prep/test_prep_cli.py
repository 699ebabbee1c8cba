"""Command lines of the data steps: what is not understood is named."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pytest

from data_prep.cli import parse


@dataclass
class Options:
    """Do a thing."""

    root: Annotated[Path, "where it lies"]
    size: Annotated[int | None, "side in pixels"] = None
    share: Annotated[float, "a share"] = 0.1
    deep: Annotated[bool, "all of it"] = False


def run(*arguments: str) -> Options:
    return parse(Options, list(arguments), "prog")


def test_values_become_what_the_fields_say() -> None:
    assert run("root=a/b") == Options(Path("a/b"))
    assert run("--root=x=y", "size=12", "share=.5", "deep=True") == Options(Path("x=y"), 12, 0.5, True)
    assert run("root=x", "size=null").size is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["root=x", "siez=3"], "unknown key 'siez'; did you mean 'size'"),
        (["root=x", "qqqq=3"], "unknown key 'qqqq'; valid keys: root, size, share, deep"),
        (["size=3"], "root=... is missing: where it lies"),
        (["root=x", "size=large"], "size: expected int, got 'large'"),
        (["root=x", "deep=maybe"], "deep: expected true or false, got 'maybe'"),
        (["root"], "expected root=VALUE, got 'root'"),
    ],
)
def test_errors_say_what_was_given_and_what_was_meant(arguments: list[str], message: str) -> None:
    with pytest.raises(SystemExit) as caught:
        run(*arguments)
    assert message in str(caught.value.code)


def test_help_shows_every_key(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        run("--help")
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert "Do a thing." in text
    assert "root=...         where it lies (required)" in text
    assert "size=...         side in pixels (default None)" in text
