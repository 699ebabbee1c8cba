"""curation.jsonl: the verdicts of curation beside the clips of a folder, and what packs them reads of it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from data_prep.decisions import Decisions
from wan_alpha.data.errors import DataError

VERDICTS = "curation.jsonl"


def write_verdicts(rows: Iterable[Mapping[str, Any]], folder: Path) -> Path:
    """Write FOLDER/curation.jsonl in one step: for each clip `key`, `keep`, `reasons`, and `split` if it moved.

    Args:
        rows: of curation.parquet, those of this folder.
        folder: where to.

    Raises:
        DataError: the folder cannot be written.
    """
    file, partial = folder / VERDICTS, folder / f"{VERDICTS}.tmp"
    lines = [
        {"key": row["key"], "keep": row["keep"], "reasons": row["reasons"]}
        | ({"split": row["new_split"]} if row["new_split"] != row["split"] else {})
        for row in rows
    ]
    try:
        folder.mkdir(exist_ok=True)
        partial.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
        os.replace(partial, file)
    except OSError as error:
        raise DataError(f"{file}: cannot be written ({error}); apply=false leaves the folder alone") from error
    return file


def curated(root: Path) -> Decisions:
    """What curation decided about a folder (a reader of `data_prep.decisions`).

    Raises:
        DataError: its curation.jsonl cannot be read.
    """
    dropped: dict[str, str] = {}
    edits: dict[str, dict[str, Any]] = {}
    for verdict in _verdicts(root):
        if not verdict["keep"]:
            dropped[verdict["key"]] = f"curation: {'; '.join(verdict['reasons'])}"
        if "split" in verdict:
            edits[verdict["key"]] = {"split": verdict["split"]}
    return Decisions(dropped, edits)


def _verdicts(root: Path) -> Iterator[dict[str, Any]]:
    """The lines of curation.jsonl, if there is one."""
    file = root / VERDICTS
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines() if file.exists() else [], 1):
        try:
            verdict = json.loads(line)
            if not isinstance(verdict["key"], str) or (not verdict["keep"] and not verdict["reasons"]):
                raise ValueError(line)
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{file}:{number}: not a verdict ({error!r}); run data_prep.curate again") from error
        yield verdict
