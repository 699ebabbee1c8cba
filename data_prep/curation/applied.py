"""curation.jsonl: the verdicts of curation beside the clips of a folder, and what packs them reads of it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from data_prep.decisions import Decisions
from wan_alpha.data.errors import DataError
from wan_alpha.data.verdicts import VERDICTS, read_verdicts


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
    verdicts = read_verdicts(root)
    dropped = {key: verdict.dropped for key, verdict in verdicts.items() if verdict.dropped}
    edits = {key: {"split": verdict.split} for key, verdict in verdicts.items() if verdict.split}
    return Decisions(dropped, edits)
