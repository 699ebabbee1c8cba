"""Lists of prompts to generate and to evaluate: the project's own, TransPixeler's published one, or the user's file."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import urllib.request
from dataclasses import dataclass
from http.client import HTTPException
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from wan_alpha.names import is_file_name

EXPECTED: dict[str, tuple[float, float]] = {
    "opaque": (0.0, 0.1),
    "edges": (0.0, 0.4),
    "part": (0.1, 0.9),
    "mostly": (0.5, 1.0),
}
"""What a tag says of the translucent share (`transparency.translucent_share`)."""

TRANSPIXELER_URL = "https://wileewang.github.io/TransPixeler/text_to_rgba.json"
TRANSPIXELER_SHA256 = "bb69e240eb3d7d6f9dd02c5212da90b9b3bdf6b0e4f0b298940991f0982c6f42"
TRANSPIXELER_FILE = "text_to_rgba.json"


class PromptError(ValueError):
    """A list of prompts cannot be read."""


@dataclass(frozen=True)
class Prompt:
    """One prompt of a list.

    Attributes:
        id: what its files are called.
        text: what is asked for.
        category: where it belongs.
        expects: which transparency is expected, if the list says so: a key of EXPECTED.
        numbered: the list gave no id, and this is its number.
    """

    id: str
    text: str
    category: str = "all"
    expects: str | None = None
    numbered: bool = False

    @property
    def expected_share(self) -> tuple[float, float] | None:
        """The range of the translucent share, if the prompt says one."""
        return EXPECTED[self.expects] if self.expects else None


def load_prompts(source: str) -> list[Prompt]:
    """The prompts of a list.

    Args:
        source: "bench": the project's own.  "transpixeler": TransPixeler's, fetched once from its project page and
            checked (its licence is non-commercial: it is not part of this project).  "transpixeler=FILE" or any FILE:
            JSON {id: text}, or rows with id, text and optionally category and expects, as JSON, YAML or CSV; a text
            file has one prompt per line, and a list of texts is the same: their numbers are the ids.

    Raises:
        PromptError: it is missing, damaged or empty, an id returns, or a tag is unknown.
    """
    if source == "bench":
        groups = yaml.safe_load(files("wan_alpha.evaluation").joinpath("bench.yaml").read_text(encoding="utf-8"))
        rows = [row | {"category": name} for name, group in groups["prompts"].items() for row in group]
        return _checked(rows, "bench")
    file = _fetched() if source == "transpixeler" else Path(source.removeprefix("transpixeler="))
    try:
        return _checked(_rows(file), str(file))
    except (OSError, ValueError, yaml.YAMLError) as error:
        if isinstance(error, PromptError):
            raise
        raise PromptError(f"prompts={source}: cannot be read ({error}); give bench, transpixeler or a file") from error


def _rows(file: Path) -> list[dict[str, Any]]:
    text = file.read_text(encoding="utf-8-sig")
    suffix = file.suffix.lower()
    if suffix == ".csv":
        return [dict(row) for row in csv.DictReader(io.StringIO(text, newline=""))]
    if suffix not in (".json", ".yaml", ".yml"):
        return _numbered([line for line in text.splitlines() if line.strip()])
    content = json.loads(text) if suffix == ".json" else yaml.safe_load(text)
    if isinstance(content, dict) and set(content) >= {"prompts"}:
        content = content["prompts"]
    if isinstance(content, dict):
        return [{"id": key, "text": value} for key, value in content.items()]
    if not isinstance(content, list):
        raise PromptError(f"{file}: expected a list of prompts or {{id: prompt}}, found {content!r}")
    return _numbered(content)


def _numbered(rows: list[Any]) -> list[dict[str, Any]]:
    """Rows as they are; a bare text gets its number as id."""
    return [
        row if isinstance(row, dict) else {"id": f"{number:03d}", "text": row, "numbered": True}
        for number, row in enumerate(rows, 1)
    ]


def _checked(rows: list[dict[str, Any]], where: str) -> list[Prompt]:
    prompts: dict[str, Prompt] = {}
    for row in rows:
        given = row.get("text") or row.get("prompt") or ""
        if not isinstance(given, str):
            raise PromptError(f"{where}: expected texts, found {given!r}")
        name, text = str(row.get("id", "")).strip(), given.strip()
        expects = row.get("expects") or None
        if not name or not text:
            raise PromptError(f"{where}: a prompt without {'text' if name else 'id'}: {row}")
        if not is_file_name(name):
            raise PromptError(f"{where}: id {name!r} cannot be a file name on every system; give it another id")
        if name in prompts:
            raise PromptError(f"{where}: id {name!r} comes twice; rename one")
        if expects is not None and expects not in EXPECTED:
            raise PromptError(f"{where}: {name} expects {expects!r}; known: {', '.join(EXPECTED)}")
        category, numbered = str(row.get("category") or "all"), bool(row.get("numbered"))
        prompts[name] = Prompt(name, text, category, expects, numbered)
    if not prompts:
        raise PromptError(f"{where}: no prompts in it")
    return list(prompts.values())


def _fetched() -> Path:
    """TransPixeler's list in the user's cache, fetched when absent; its sha256 is checked either way."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "wan-alpha"
    file = cache / TRANSPIXELER_FILE
    if file.exists():
        _check_published(file.read_bytes(), f"{file} has", "remove the file, or look at it and give its path as")
        return file
    try:
        with urllib.request.urlopen(TRANSPIXELER_URL, timeout=30) as answer:
            content: bytes = answer.read()
    except (OSError, HTTPException) as error:
        raise PromptError(
            f"prompts=transpixeler: cannot fetch {TRANSPIXELER_URL} ({error}). Without a network, give the file: "
            "prompts=PATH/text_to_rgba.json"
        ) from error
    _check_published(content, f"what {TRANSPIXELER_URL} gives has", "look at it and give a copy as")
    cache.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f"{file.name}.tmp")
    partial.write_bytes(content)
    os.replace(partial, file)
    return file


def _check_published(content: bytes, what: str, advice: str) -> None:
    found = hashlib.sha256(content).hexdigest()
    if found != TRANSPIXELER_SHA256:
        raise PromptError(
            f"prompts=transpixeler: {what} sha256 {found}, expected {TRANSPIXELER_SHA256}; the published list may "
            f"have changed: {advice} prompts=FILE"
        )
