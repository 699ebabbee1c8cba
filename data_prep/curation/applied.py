"""curation.jsonl: the verdicts of curation beside the clips of a folder, where `FolderSource` reads them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from data_prep.files import write_atomic
from wan_alpha.data.errors import DataError
from wan_alpha.data.verdicts import VERDICTS


def write_verdicts(rows: Iterable[Mapping[str, Any]], folder: Path) -> Path:
    """Write FOLDER/curation.jsonl in one step: for each clip `key`, `keep`, `reasons`, and `split` if it moved.

    Args:
        rows: of curation.parquet, those of this folder.
        folder: where to.

    Raises:
        DataError: the folder cannot be written.
    """
    file = folder / VERDICTS
    lines = [
        {"key": row["key"], "keep": row["keep"], "reasons": row["reasons"]}
        | ({"split": row["new_split"]} if row["new_split"] != row["split"] else {})
        for row in rows
    ]
    try:
        folder.mkdir(exist_ok=True)
        write_atomic(file, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode())
    except OSError as error:
        raise DataError(f"{file}: cannot be written ({error}); apply=false leaves the folder alone") from error
    return file
