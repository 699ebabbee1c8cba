"""What lies behind the review page, without the page: which clips there are, what is said of them, and saving."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from data_prep.captioner import curated_measures
from data_prep.journal import Journal, entry
from wan_alpha.data.annotations import FIELDS, VERDICTS, Annotation, Entry
from wan_alpha.data.captions import LABELS
from wan_alpha.data.errors import DataError
from wan_alpha.data.folders import FolderSource
from wan_alpha.data.source import Clip

FILTERS = ("all clips", "undecided", "accepted", "rejected", "without caption")


class Saved(NamedTuple):
    """What became of an edit: the names of the fields written, and whose word was written over, if anybody's."""

    fields: list[str]
    overwritten: list[Entry]


class Desk:
    """The clips of a folder, and who was shown what.

    Every browser tab has a name of its own (`tab`).  The desk remembers what it showed to each: a field whose value
    differs from that was edited there, and only such fields are written.  So a tab that shows old values of other
    fields does not undo what was written elsewhere meanwhile.

    Args:
        root: the data set folder.

    Raises:
        DataError: the folder holds no clip.
    """

    def __init__(self, root: Path) -> None:
        self.source = FolderSource(root, "all", annotated=False)
        self.journal = Journal(root)
        self.journal.compact()
        self.measures = curated_measures(root)
        self.index = {clip.key: index for index, clip in enumerate(self.source.clips)}
        self._shown: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)
        # News that were sent to a tab.  Until it answers with them, it may still show what it showed before.
        self._sent: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)
        self._lock = threading.Lock()

    def clip(self, key: str) -> Clip:
        """The clip as it came.

        Raises:
            DataError: there is none.
        """
        if key not in self.index:
            raise DataError(f"{key}: no such clip in {self.source.root}")
        return self.source.clips[self.index[key]]

    def values(self, key: str) -> dict[str, str]:
        """What counts now, by field; "" where nothing was said."""
        return self._values(key, self.journal.annotation(key))

    def _values(self, key: str, said: Annotation) -> dict[str, str]:
        clip = said.apply(self.clip(key))
        own = clip.meta.get("labels", {})
        values = {name: said.value(name) for name in FIELDS} | {"caption": clip.caption}
        return values | {name: str(own.get(name, "")) for name in LABELS}

    def show(self, tab: str, key: str) -> dict[str, str]:
        """The values of a clip, which the tab shows from now on."""
        with self._lock:
            values, shown = self.values(key), self._shown[tab, key]
            shown["verdict"] = values["verdict"]
            for name, value in values.items():
                if shown.setdefault(name, value) != value:
                    self._sent[tab, key][name] = value
            return values

    def shown(self, tab: str, key: str) -> dict[str, str]:
        """What the tab was last shown of a clip."""
        return dict(self._shown.get((tab, key), {}))

    def save(self, tab: str, key: str, who: str, values: Mapping[str, str]) -> Saved:
        """Write down what was edited in a tab; when this returns it is on the disk.

        Args:
            tab: the tab.
            key: the clip.
            who: who edited.
            values: what the tab shows now, of some or all fields.

        Raises:
            DataError: there is no such clip, or a value is not in the vocabulary.
        """
        self.clip(key)
        for name, value in values.items():
            _check(name, value)
        with self._lock:
            self._confirm(tab, key, values)
            shown = self._shown[tab, key]
            said = self.journal.annotation(key)
            now = self._values(key, said)
            if "verdict" in values:  # is pressed, not shown in a field: it is meant, whatever the tab showed
                shown["verdict"] = now["verdict"]
            edited = {name: text for name, text in values.items() if text != shown.get(name, "")}
            overwritten = [
                said.entries[name]
                for name, text in edited.items()
                if name in said.entries and now[name] not in (shown.get(name, ""), text)
            ]
            self.journal.append([entry(who or "unknown", "person", key, name, text) for name, text in edited.items()])
            shown |= edited
            for name in edited:
                self._sent[tab, key].pop(name, None)
        return Saved(list(edited), overwritten)

    def news(self, tab: str, key: str, values: Mapping[str, str]) -> dict[str, str]:
        """Fields that changed elsewhere since the tab showed them, and were not edited there."""
        if key not in self.index:
            return {}
        with self._lock:
            self._confirm(tab, key, values)
            now, shown = self.values(key), self._shown[tab, key]
            news = {
                name: now[name]
                for name, text in values.items()
                if now[name] != shown.get(name, "") and text == shown.get(name, "")
            }
            self._sent[tab, key] |= news
            shown["verdict"] = now["verdict"]
        return news

    def _confirm(self, tab: str, key: str, values: Mapping[str, str]) -> None:
        """Note which news have arrived in a tab: it answers with them."""
        sent = self._sent[tab, key]
        for name in [name for name, text in values.items() if sent.get(name) == text]:
            self._shown[tab, key][name] = sent.pop(name)

    def forget(self, tab: str) -> None:
        """The tab was closed."""
        with self._lock:
            for memory in (self._shown, self._sent):
                for known in [known for known in memory if known[0] == tab]:
                    del memory[known]

    def keys(self, chosen: str, search: str) -> list[str]:
        """Keys of the clips that a filter lets through and whose key or captions contain the search words."""
        state, words = self.journal.state(), search.lower().split()
        return [
            clip.key
            for clip in self.source.clips
            if _passes(state.get(clip.key, Annotation()), chosen)
            and all(word in _text(clip, state.get(clip.key, Annotation())) for word in words)
        ]

    def counts(self) -> dict[str, int]:
        """How many clips are accepted, rejected and undecided."""
        state = self.journal.state()
        verdicts = [state[key].value("verdict") if key in state else "" for key in self.index]
        return {name or "undecided": verdicts.count(name) for name in VERDICTS}


def _check(name: str, value: str) -> None:
    closed = {"verdict": VERDICTS, **{label: ("", *values) for label, values in LABELS.items()}}
    if name not in FIELDS or value not in closed.get(name, (value,)):
        raise DataError(f"{name}={value!r}: expected one of {', '.join(closed.get(name, FIELDS))}")


def _passes(said: Annotation, chosen: str) -> bool:
    if chosen == "without caption":
        return not any(said.value(name) for name in FIELDS if name.endswith(("_en", "_zh")))
    wanted = {"undecided": "", "accepted": "accepted", "rejected": "rejected"}
    return chosen not in wanted or said.value("verdict") == wanted[chosen]


def _text(clip: Clip, said: Annotation) -> str:
    values = (entry.value for entry in said.entries.values())
    return " ".join([clip.key, clip.caption, *values]).lower()
