"""Commands that pages name exist, with the keys, groups, experiments and files they are given."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from pages import PAGES, ROOT, SITE, commands

sys.path.insert(0, str(SITE))
import config_page

PROGRAMS = {f"{name}.py": config_page.PROGRAMS[index] for index, name in enumerate(("train", "generate", "evaluate"))}
KEYS = {script: config_page.known_keys(program) for script, program in PROGRAMS.items()}
FREE = ("videos.", "generators.", "codecs.", "hydra.", "model.architecture.", "model.fresh.")


def places() -> list[tuple[str, list[str]]]:
    return [(page.relative_to(ROOT).as_posix(), line) for page in PAGES for line in commands(page)]


def is_module(name: str) -> bool:
    path = name.replace(".", "/")
    roots = (ROOT, ROOT / "src")
    files = (f"{path}.py", f"{path}/__main__.py")
    return any((root / file).is_file() for root in roots for file in files)


def wrong_override(script: str, override: str) -> str | None:
    """What is wrong with KEY=VALUE of an entry point; None: nothing."""
    key, _, value = override.lstrip("+~").partition("=")
    if "/" in key or key == "hydra" or key.startswith(FREE) or override.startswith("+"):
        return None
    group = ROOT / "conf" / key
    if group.is_dir() and re.fullmatch(r"[a-z0-9_.-]+", value) and not re.fullmatch(r"[\w-]*\.\.\.", value):
        return None if (group / f"{value}.yaml").is_file() else f"conf/{key}/{value}.yaml does not exist"
    if group.is_dir() or key in KEYS[script]:
        return None
    return f"{key} is no key of {script}"


def wrong_with(line: list[str]) -> list[str]:
    """Everything that is wrong with a command."""
    program, *rest = line
    if program == "make":
        targets = [word for word in rest if re.fullmatch(r"[a-z]+", word)]
        return [
            f"make {t}: no such target"
            for t in targets[:1]
            if not re.search(rf"^{t}:", (ROOT / "Makefile").read_text(), re.M)
        ]
    if program == "python" and rest[:1] == ["-m"]:
        ours = rest[1].split(".")[0] in ("wan_alpha", "data_prep", "benchmarks")
        return [f"no module {rest[1]}"] if ours and "<" not in rest[1] and not is_module(rest[1]) else []
    scripts = [word for word in rest if word.endswith(".py")]
    if not scripts or "/" in scripts[0]:
        return [] if not scripts or (ROOT / scripts[0]).is_file() else [f"no file {scripts[0]}"]
    if scripts[0] not in KEYS:
        return [f"no entry point {scripts[0]}"]
    overrides = [word for word in rest[rest.index(scripts[0]) + 1 :] if re.match(r"[+~]?[\w/.]+=", word)]
    return [
        wrong for o in overrides if (wrong := wrong_override(scripts[0], o)) and "KEY" not in o and "GROUP" not in o
    ]


def test_pages_have_commands() -> None:
    assert len(places()) > 60
    assert {page for page, _ in places()} >= {"README.md", "docs/start.md", "docs/operations.md", "docs/reproduce.md"}


@pytest.mark.parametrize("page", sorted({page.relative_to(ROOT).as_posix() for page in PAGES}))
def test_commands_exist(page: str) -> None:
    wrong = [f"{' '.join(line)}: {w}" for where, line in places() if where == page for w in wrong_with(line)]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    "line",
    [
        "python train.py optim.lrr=1", "python train.py experiment=nothing", "python -m data_prep.nothing root=DIR",
        "make nothing", "python generate.py promt=a", "torchrun --nnodes=2 train.py trainer.nodes=2",
        "python nothing.py",
    ],
)  # fmt: skip
def test_wrong_commands_are_seen(line: str) -> None:
    assert wrong_with(line.split())


def test_files_that_pages_name_exist() -> None:
    """`tests/...py`, `deploy/...`, `experiments/...yaml`, `conf/...yaml` in text."""
    missing = set()
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        if "extend" in page.parts:  # files that the reader is about to make
            continue
        for name in re.findall(r"`((?:tests|deploy|src|data_prep|docs|\.ci)/[\w./-]+\.\w+|benchmarks/\w+\.py)`", text):
            if "NAME" not in name and not (ROOT / name).exists():
                missing.add(f"{page.relative_to(ROOT)}: {name}")
    assert not missing, "\n".join(sorted(missing))


def test_the_list_of_pages_is_whole() -> None:
    assert Path("docs/start.md") in {page.relative_to(ROOT) for page in PAGES}
