"""What `data_prep.caption` does with one clip: measure, ask, check, remember, write down."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.progress import Progress

from data_prep import viewing
from data_prep.endpoint import Endpoint, EndpointError
from data_prep.files import write_atomic
from data_prep.journal import Journal, entry
from data_prep.measures import measured_labels
from data_prep.questions import FIELDS, NonsenseError, Question, question
from wan_alpha.data.annotations import RANKS
from wan_alpha.data.captions import LABELS
from wan_alpha.data.errors import DataError
from wan_alpha.data.folders import FolderSource
from wan_alpha.data.source import Clip

if TYPE_CHECKING:
    from data_prep.caption import Options

CACHE = ".cache/captions"
FAILURES = "caption_failures.jsonl"
MEASURED = {"speed": ("flow", "normal"), "quality": ("sharpness", "clear")}
"""Labels that need no eye: the measure that must be there, and the value where nothing is out of the ordinary."""
WARMER = 0.4  # a question whose answer was nonsense is asked again at a temperature higher by so much


@dataclass
class Counts:
    """What became of the questions."""

    asked: int = 0
    cached: int = 0
    measured: int = 0
    theirs: int = 0  # a person's word stands already
    failed: int = 0
    in_a_row: int = 0  # without an answer from the endpoint


@dataclass
class Captioner:
    """One run of `data_prep.caption`: what its workers share."""

    options: Options
    source: FolderSource
    endpoint: Endpoint
    journal: Journal
    progress: Progress
    measures: Mapping[str, Mapping[str, float | None]]
    counts: Counts = field(default_factory=Counts)

    async def clip(self, index: int) -> None:
        """Measure one clip and ask everything about it."""
        clip = self.source.clips[index]
        measured = self._measure(clip)
        labels = [label for label in LABELS if label not in measured]
        content = await asyncio.to_thread(viewing.content_hash, self.source.media(index))
        shown: tuple[list[bytes], str] | None = None
        for name in fields_of(self.options):
            said = self.journal.annotation(clip.key).entries
            wanted = labels if name == "labels" else [name]
            if all(label in said and said[label].kind == "person" for label in wanted):
                self.counts.theirs += 1
                self.progress.advance(self.progress.task_ids[0])
                continue
            digest = digest_of(self.options, content, name, labels, clip.caption)
            values = self._cached(digest)
            self.counts.cached += values is not None
            try:
                if values is None:
                    if shown is None:
                        shown = await asyncio.to_thread(self._show, index)
                    values = await self._ask(self._question(name, clip, shown[1], labels), shown[0])
                    self._store(digest, values)
                    self.counts.asked += 1
                self._say(clip.key, values, digest)
            except (DataError, NonsenseError) as error:
                self._fail(clip.key, name, error)
            self.progress.advance(self.progress.task_ids[0])

    def _measure(self, clip: Clip) -> dict[str, str]:
        """The labels that follow from what is measured on the clip, written down where they are new."""
        said = self.journal.annotation(clip.key).entries
        measured = labels_from({**clip.meta, **self.measures.get(clip.key, {})})
        new = {n: v for n, v in measured.items() if n not in said or (said[n].kind == "measure" and said[n].value != v)}
        self.journal.append([entry("measures", "measure", clip.key, name, value) for name, value in new.items()])
        self.counts.measured += len(new)
        return measured

    def _question(self, name: str, clip: Clip, colour: str, labels: list[str]) -> Question:
        hint = clip.caption if self.options.hint else ""
        return question(name, min(self.options.frames, clip.num_frames), colour, hint, labels)

    def _show(self, index: int) -> tuple[list[bytes], str]:
        return viewing.pictures(self.source, index, self.options.frames, self.options.side)

    async def _ask(self, asked: Question, pictures: list[bytes]) -> dict[str, str]:
        """The values of a question, asked again while the answer is nonsense.

        Raises:
            EndpointError: the endpoint did not answer.
            NonsenseError: it did, but never with sense; the message holds the last answer.
        """
        problem = ""
        for attempt in range(self.options.attempts):
            warmth = min(self.options.temperature + attempt * WARMER, 1.5)
            try:
                answer = await self.endpoint.ask(pictures, asked.prompt, asked.max_tokens, warmth)
                self.counts.in_a_row = 0
                return asked.read(answer)
            except NonsenseError as error:
                problem = f"{error}; the answer was {answer[:200]!r}"
            except EndpointError as error:
                if error.kind != "question":
                    raise
                self.counts.in_a_row = 0
                problem = str(error)
        raise NonsenseError(f"{problem} (asked {self.options.attempts} times)")

    def _say(self, key: str, values: Mapping[str, str], digest: str) -> None:
        """Write down what the model said, unless that or more is written down already."""
        said = self.journal.annotation(key).entries
        by = f"model {self.options.model}"
        self.journal.append(
            [
                entry(by, "model", key, name, value, digest)
                for name, value in values.items()
                if name not in said or (said[name].source != digest and RANKS[said[name].kind] <= RANKS["model"])
            ]
        )

    def _fail(self, key: str, name: str, error: Exception) -> None:
        """Note a failure.

        Raises:
            EndpointError: there is no sense in going on.
        """
        self.counts.failed += 1
        kind = (
            error.kind
            if isinstance(error, EndpointError)
            else "answer"
            if isinstance(error, NonsenseError)
            else "media"
        )
        line = {"key": key, "field": name, "kind": kind, "reason": str(error)}
        with (self.options.root / FAILURES).open("a", encoding="utf-8") as log:
            log.write(json.dumps(line, ensure_ascii=False) + "\n")
        if isinstance(error, EndpointError) and kind in ("down", "refused"):
            self.counts.in_a_row += 1
            if kind == "refused" or self.counts.in_a_row >= self.options.patience:
                raise error

    def _cached(self, digest: str) -> dict[str, str] | None:
        try:
            values = json.loads(self._cache_file(digest).read_text(encoding="utf-8"))["values"]
            return {str(name): str(value) for name, value in values.items()}
        except (OSError, ValueError, KeyError, AttributeError):
            return None

    def _store(self, digest: str, values: Mapping[str, str]) -> None:
        file = self._cache_file(digest)
        file.parent.mkdir(parents=True, exist_ok=True)
        content = {"model": self.options.model, "values": values}
        write_atomic(file, (json.dumps(content, ensure_ascii=False) + "\n").encode())

    def _cache_file(self, digest: str) -> Path:
        return self.options.root / CACHE / digest[:2] / f"{digest}.json"


def curated_measures(root: Path) -> dict[str, dict[str, float | None]]:
    """{key: {measure: value}} from where `data_prep.curate` leaves them by default; empty if it did not run.

    Raises:
        DataError: the table cannot be read.
    """
    table = Path(f"{root.resolve()}-curation") / "curation.parquet"
    if not table.exists():
        return {}
    from data_prep.curation.table import read_measures  # only now: it brings pyarrow and OpenCV

    return read_measures(table)


def fields_of(options: Options) -> list[str]:
    """The fields to ask for.

    Raises:
        DataError: one is unknown.
    """
    names = [name.strip() for name in options.fields.split(",") if name.strip()]
    unknown = [name for name in names if name not in FIELDS]
    if unknown or not names:
        raise DataError(f"fields={options.fields}: expected some of {', '.join(FIELDS)}")
    return names


def labels_from(measures: Mapping[str, Any]) -> dict[str, str]:
    """Labels that follow from measures; those that are ordinary are said to be so."""
    found = measured_labels(measures)
    return {
        name: found.get(name, ordinary)
        for name, (measure, ordinary) in MEASURED.items()
        if measures.get(measure) is not None
    }


def digest_of(options: Options, content: str, name: str, labels: list[str], hint: str) -> str:
    """What an answer is cached by: the clip, how it is shown, the question, and the model."""
    asked = question(name, options.frames, "", hint if options.hint else "", labels)
    parts = [content, viewing.VERSION, options.frames, options.side, asked.prompt, asked.max_tokens]
    parts += [options.model, options.temperature]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
