"""What documentation pages contain: code, diffs, commands."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
SITE = ROOT / "docs" / "_site"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", ROOT / "experiments" / "README.md"]
PAGES += sorted((ROOT / "docs").rglob("*.md"))
_BLOCK = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', re.M | re.S)


class Block(NamedTuple):
    """A fenced block: its language, the file it belongs to ("" if it says none), its lines."""

    language: str
    title: str
    text: str


def blocks(page: Path) -> list[Block]:
    return [Block(*found) for found in _BLOCK.findall(page.read_text(encoding="utf-8"))]


def apply_diffs(page: Path, file: str) -> str:
    """The text of a file after the page's diffs for it; every diff must fit in exactly one place."""
    text = (ROOT / file).read_text(encoding="utf-8")
    for block in blocks(page):
        if (block.language, block.title) != ("diff", file):
            continue
        lines = block.text.splitlines(keepends=True)
        old = "".join(line[1:] for line in lines if line[0] in " -")
        new = "".join(line[1:] for line in lines if line[0] in " +")
        assert text.count(old) == 1, f"{page.name}: this is not in {file} just once:\n{old}"
        text = text.replace(old, new)
    return text


def commands(page: Path) -> list[list[str]]:
    """Words of every command line that starts Python or make: in indented and fenced blocks, in `code`, in tables."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    found = re.findall(r"^\s+(?:\w+=\S+ )?((?:python|make|torchrun) [^#\n]*)", text, re.M)
    found += [
        line
        for code in re.findall(r"`([^`\n]+)`", text)
        for line in [code]
        if re.match(r"(python|make|torchrun) \w", line)
    ]
    split = [part.strip() for line in found for part in line.split("&&")]
    return [words(line) for line in split if re.match(r"(python|make|torchrun) [-\w]", line)]


def words(line: str) -> list[str]:
    line = line.split(";")[0]
    try:
        return shlex.split(line)
    except ValueError:  # a quotation that the line only begins
        return line.split()
