"""What people and measures decided about the clips of a data set folder: which are kept, and what is corrected.

Every step that decides (curation, captions, review) writes files of its own beside `records.jsonl`, which stays as it
was ingested, and has one reader in `READERS`.  Whatever packs or trains asks `decisions` and so honours all of them.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wan_alpha.data.annotations import read_annotations


@dataclass(frozen=True)
class Decisions:
    """What was decided.

    Attributes:
        dropped: {key: who or what dropped the clip, and why}.
        edits: {key: {field: value}}, which replace those of the record: `caption`, `captions`, labels, `split`.
    """

    dropped: dict[str, str] = field(default_factory=dict)
    edits: dict[str, dict[str, Any]] = field(default_factory=dict)
    kept: frozenset[str] = frozenset()
    """Keys that a person accepted, whatever was decided before."""


def reviewed(root: Path) -> Decisions:
    """What people accepted on the review page.  What they rejected, `FolderSource` itself leaves out, and it already
    has the captions and labels as they corrected them."""
    state = read_annotations(root)
    return Decisions(kept=frozenset(key for key, said in state.items() if said.value("verdict") == "accepted"))


Reader = Callable[[Path], Decisions]
READERS: tuple[Reader | str, ...] = ("data_prep.curation.applied:curated", reviewed)
"""In order: what a later reader says wins over what an earlier one said.  By name where a module imports this one."""


def decisions(root: Path, readers: tuple[Reader | str, ...] | None = None) -> Decisions:
    """All decisions about the folder `root`.

    Raises:
        DataError: a file of decisions cannot be read.
    """
    dropped: dict[str, str] = {}
    edits: dict[str, dict[str, Any]] = {}
    kept: set[str] = set()
    for reader in READERS if readers is None else readers:
        found = (pkgutil.resolve_name(reader) if isinstance(reader, str) else reader)(root)
        dropped = {key: why for key, why in dropped.items() if key not in found.kept} | found.dropped
        kept = (kept | found.kept) - found.dropped.keys()
        for key, fields in found.edits.items():
            edits[key] = edits.get(key, {}) | fields
    return Decisions(dropped, edits, frozenset(kept))
