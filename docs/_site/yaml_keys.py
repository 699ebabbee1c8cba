"""Every key of a YAML file of `conf/` with its value and the comment that stands behind or right above it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import yaml

_KEY = re.compile(r"^( *)([\w.$-]+):(?:\s+([^\s#])|\s|$)")
HYDRA = ("defaults", "hydra")
"""Keys that are Hydra's, not ours."""


@dataclass(frozen=True)
class Entry:
    """One key of a file.

    Attributes:
        name: in dots, from the root of the composed tree.
        value: as it stands there, "" for keys that only hold others.
        comment: "" if there is none.
    """

    name: str
    value: str
    comment: str


def read_file(file: Path, package: str) -> tuple[str, list[Entry]]:
    """What the file says of itself in the comment it begins with, and its keys.

    Args:
        package: where its keys go, "data." for conf/data/*.yaml; a file that says `@package _global_` goes to the root.
    """
    lines = file.read_text(encoding="utf-8").splitlines()
    if lines and "@package _global_" in lines[0]:
        package, lines[0] = "", "#"
    header = []
    while lines and lines[0].startswith("#"):
        header.append(lines.pop(0).lstrip("#").strip())
    tree = yaml.safe_load("\n".join(lines)) or {}
    entries, stack, above = [], [], []
    for line in lines:
        if line.strip().startswith("#"):
            words = line.strip().lstrip("# ")
            if (
                stack and len(line) - len(line.lstrip()) > stack[-1][0] + 4
            ):  # goes on with the comment of the line above
                last = entries[-1]
                entries[-1] = Entry(last.name, last.value, f"{last.comment} {words}")
            else:
                above.append(words)
            continue
        found = _KEY.match(line)
        if found is not None:
            depth, name = len(found[1]), found[2]
            stack = [*(s for s in stack if s[0] < depth), (depth, name)]
            path = [part for _, part in stack]
            if path[0] not in HYDRA:
                entries.append(Entry(package + ".".join(path), _value(tree, path, found[3]), _comment(line, above)))
        above = []
    return " ".join(word for word in header if word), entries


def _comment(line: str, above: list[str]) -> str:
    behind = re.search(r"\s#\s*(.*)$", line)
    if behind is not None:
        return behind[1].strip()
    return " ".join(above) if above and not above[0].startswith("---") else ""


def _value(tree: object, path: list[str], begins: str | None) -> str:
    if begins is None:  # nothing behind the colon: it holds the keys below
        return ""
    for part in path:
        assert isinstance(tree, dict)
        tree = tree[part]
    text = yaml.safe_dump(tree, default_flow_style=True, width=10_000, allow_unicode=True, sort_keys=False).strip()
    text = text.removesuffix("...").strip()
    return text if len(text) <= 90 else text[:87] + "..."
