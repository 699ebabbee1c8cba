"""What models and people say about the clips of a folder: captions, labels and verdicts, from `annotations.jsonl`.

The file is a journal: one JSON object per line, `{"time", "by", "kind", "key", "field", "value"}`, of which the last
word on each field counts, and a person's word before a model's, whichever came later.  `data_prep.journal` writes it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from wan_alpha.data.captions import CAPTION_FIELDS, LABELS
from wan_alpha.data.source import Clip

ANNOTATIONS = "annotations.jsonl"
FIELDS = ("caption", *CAPTION_FIELDS, *LABELS, "verdict", "note")
"""What can be said about a clip; `caption` is the one it came with, `note` is for people."""
VERDICTS = ("", "accepted", "rejected")
RANKS = {"measure": 0, "model": 1, "person": 2}

Kind = Literal["measure", "model", "person"]


@dataclass(frozen=True)
class Entry:
    """One statement: at `time` (ISO 8601, UTC) `by` said that `field` of clip `key` is `value`.

    `source` names what a model was asked (the hash of clip, prompt and model), so that it need not be asked again.
    """

    time: str
    by: str
    kind: Kind
    key: str
    field: str
    value: str
    source: str = ""

    def line(self) -> str:
        """The entry as a line of the journal."""
        values = {name: value for name, value in asdict(self).items() if name != "source" or value}
        return json.dumps(values, ensure_ascii=False) + "\n"


@dataclass
class Annotation:
    """What counts for one clip, by field."""

    entries: dict[str, Entry] = field(default_factory=dict)

    def value(self, name: str) -> str:
        """The value of a field; empty if nobody said anything."""
        return self.entries[name].value if name in self.entries else ""

    @property
    def rejected(self) -> bool:
        """Whether the clip is to be left out."""
        return self.value("verdict") == "rejected"

    def apply(self, clip: Clip) -> Clip:
        """The clip with these captions and labels; a corrected `caption` replaces the clip's own."""
        meta = dict(clip.meta)
        caption = self.entries["caption"].value if "caption" in self.entries else clip.caption
        own = meta.get("captions")
        written = {name: self.value(name) for name in CAPTION_FIELDS if self.value(name)}
        if written:
            meta["captions"] = written
        elif isinstance(own, list) and own and "caption" in self.entries:
            meta["captions"] = [text for text in (caption, *own[1:]) if text]
        labels = {**meta.get("labels", {}), **{name: self.value(name) for name in LABELS if name in self.entries}}
        if labels:
            meta["labels"] = {name: value for name, value in labels.items() if value}
        return replace(clip, caption=caption, meta=meta)


def read_annotations(root: Path) -> dict[str, Annotation]:
    """What counts for every clip of a folder that somebody said something about; empty without a journal."""
    return fold(read_entries(root / ANNOTATIONS)[0])


def read_entries(file: Path) -> tuple[list[Entry], list[str]]:
    """The entries of a journal in their order, and what could not be read, by line: a journal may end in the middle of
    a line when its writer was killed."""
    entries: list[Entry] = []
    problems: list[str] = []
    for number, line in enumerate(file.read_bytes().split(b"\n") if file.exists() else [], 1):
        if not line.strip():
            continue
        try:
            entries.append(_entry(json.loads(line.decode("utf-8"))))
        except (ValueError, TypeError, AttributeError) as error:
            problems.append(f"{file}:{number}: not an entry ({error})")
    return entries, problems


def fold(entries: Iterable[Entry]) -> dict[str, Annotation]:
    """The last word on every field of every clip; people outrank models, models outrank measures."""
    state: dict[str, Annotation] = {}
    for entry in entries:
        known = state.setdefault(entry.key, Annotation()).entries
        before = known.get(entry.field)
        if before is None or RANKS[entry.kind] >= RANKS[before.kind]:
            known[entry.field] = entry
    return state


def _entry(values: dict[str, Any]) -> Entry:
    entry = Entry(**{name: str(value) for name, value in values.items()})  # type: ignore[arg-type]
    if entry.field not in FIELDS or entry.kind not in RANKS:
        raise ValueError(f"unknown field {entry.field!r} or kind {entry.kind!r}")
    return entry
