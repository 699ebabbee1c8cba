"""Command lines of the data steps: what is not understood is named."""

from __future__ import annotations

import errno
import importlib
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_args, get_type_hints

import pytest
from annotated_types import Ge, Gt, Le

from data_prep.cli import parse, told
from wan_alpha.schema import Count, Natural, Share


@dataclass
class Options:
    """Do a thing."""

    root: Annotated[Path, "where it lies"]
    size: Annotated[Count | None, "side in pixels"] = None
    share: Annotated[Share, "a share"] = 0.1
    deep: Annotated[bool, "all of it"] = False
    workers: Annotated[Natural, "processes"] = 2


def test_a_locale_that_would_misread_texts_is_refused() -> None:
    posix = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-c", "from data_prep.cli import parse; parse(object, [], 'prog')"]
    ended = subprocess.run(command, env={**os.environ, **posix}, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1
    assert ended.stderr.startswith("prog: the locale makes Python read and write files as ANSI_X3.4-1968, but all")


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
        (["root=x", "qqqq=3"], "unknown key 'qqqq'; valid keys: root, size, share, deep, workers"),
        (["size=3"], "root=... is missing: where it lies"),
        (["root=x", "size=large"], "size: expected int, got 'large'"),
        (["root=x", "deep=maybe"], "deep: expected true or false, got 'maybe'"),
        (["root"], "expected root=VALUE, got 'root'"),
        (["root=x", "size=0"], "size=0: input should be greater than or equal to 1"),
        (["root=x", "share=7"], "share=7: input should be less than or equal to 1"),
        (["root=x", "share=nan"], "share=nan: input should be"),
        (["root=x", "workers=-1"], "workers=-1: input should be greater than or equal to 0"),
    ],
)
def test_errors_say_what_was_given_and_what_was_meant(arguments: list[str], message: str) -> None:
    with pytest.raises(SystemExit) as caught:
        run(*arguments)
    assert message in str(caught.value.code)


STEPS = ("caption", "encoder", "index", "ingest", "sample", "shard", "tokenizer", "verify")


@pytest.mark.parametrize("step", STEPS)
def test_every_number_of_a_step_has_a_range(step: str) -> None:
    schema = importlib.import_module(f"data_prep.{step}").Options
    hints = get_type_hints(schema, include_extras=True)
    assert {name for name, hint in hints.items() if unbounded(hint)} <= {"seed"}


def unbounded(hint: Any, bounds: tuple[Any, ...] = ()) -> bool:
    """Whether a type is a number, or may be one, of any size."""
    if isinstance(hint, type):
        return hint in (int, float) and not any(isinstance(bound, Ge | Gt | Le) for bound in bounds)
    members, bounds = (get_args(hint)[:1], hint.__metadata__) if hasattr(hint, "__metadata__") else (get_args(hint), ())
    return any(unbounded(member, bounds) for member in members)


def test_a_place_that_cannot_be_is_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as caught, told():
        (tmp_path / "file" / "out").mkdir(parents=True)
    assert caught.value.code == 1
    assert f"{tmp_path / 'file' / 'out'}: Not a directory; give " in capsys.readouterr().err


def test_a_place_where_nobody_may_write_is_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught, told():
        raise PermissionError(errno.EACCES, "Permission denied", "/out/records.jsonl")
    assert caught.value.code == 1
    assert capsys.readouterr().err.startswith("/out/records.jsonl: Permission denied; give ")


def test_help_shows_every_key(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        run("--help")
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert "Do a thing." in text
    assert "root=...         where it lies (required)" in text
    assert "size=...         side in pixels (default None)" in text
