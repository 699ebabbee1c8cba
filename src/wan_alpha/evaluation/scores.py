"""Figures per system and clip: kept as they come, so that an evaluation can be interrupted and continued."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

FILE = "scores.jsonl"


class ScoresError(ValueError):
    """A file of scores is not what it has to be, or belongs to something else."""


@dataclass(frozen=True)
class Score:
    """The figures of one clip by one system; a figure that could not be computed is NaN."""

    system: str
    clip: str
    category: str
    figures: dict[str, float]
    notes: dict[str, Any] = field(default_factory=dict)


class Scores:
    """All scores of an evaluation, and their file.

    Args:
        directory: holds `scores.jsonl`, which is read if it is there; None keeps them in memory only.
    """

    def __init__(self, directory: Path | None = None) -> None:
        self.file = directory / FILE if directory else None
        self._scores: dict[tuple[str, str], Score] = {}
        if self.file and self.file.exists():
            for score in read_scores(self.file):
                self._scores[score.system, score.clip] = score

    def __iter__(self) -> Iterator[Score]:
        return iter(self._scores.values())

    def __len__(self) -> int:
        return len(self._scores)

    def get(self, system: str, clip: str) -> Score | None:
        """The score of a clip, if it has one."""
        return self._scores.get((system, clip))

    def add(self, *scores: Score) -> None:
        """Keep scores: appended to the file as whole lines before they count."""
        if self.file:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with self.file.open("a", encoding="utf-8") as handle:
                handle.write("".join(_line(score) for score in scores))
                handle.flush()
                os.fsync(handle.fileno())
        for score in scores:
            self._scores[score.system, score.clip] = score

    def keep(self, clips: set[str]) -> None:
        """Forget all scores of other clips, in the file too: what was written after the last complete state."""
        self._scores = {key: score for key, score in self._scores.items() if key[1] in clips}
        if self.file and self.file.exists():
            partial = self.file.with_name(f"{FILE}.tmp")
            partial.write_text("".join(_line(score) for score in self), encoding="utf-8")
            os.replace(partial, self.file)

    def systems(self) -> list[str]:
        """In order of appearance."""
        return list(dict.fromkeys(score.system for score in self))

    def clips(self, system: str) -> list[str]:
        """Clips that a system has scores for, in order of appearance."""
        return [score.clip for score in self if score.system == system]

    def common_clips(self) -> list[str]:
        """Clips that every system has scores for."""
        shared = [set(self.clips(system)) for system in self.systems()]
        return [clip for clip in dict.fromkeys(s.clip for s in self) if all(clip in clips for clips in shared)]

    def figures(self, system: str) -> list[str]:
        """Figures that a system has for any clip, in order of appearance."""
        return list(dict.fromkeys(name for score in self if score.system == system for name in score.figures))


def read_scores(file: Path) -> list[Score]:
    """The scores of a file; a last line that was cut off is left out.

    Raises:
        ScoresError: another line is no score.
    """
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    scores = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            figures = {name: math.nan if value is None else float(value) for name, value in row["figures"].items()}
            scores.append(Score(row["system"], row["clip"], row["category"], figures, row.get("notes", {})))
        except (ValueError, KeyError, TypeError) as error:
            if number == len(lines) and not line.endswith("\n"):
                break
            raise ScoresError(f"{file}:{number}: not a score ({error!r}); remove the line or start anew") from error
    return scores


def plain(figures: Mapping[str, float]) -> dict[str, float | None]:
    """Figures for JSON, which knows no NaN: null."""
    return {name: value if math.isfinite(value) else None for name, value in figures.items()}


def _line(score: Score) -> str:
    return json.dumps(asdict(score) | {"figures": plain(score.figures)}, ensure_ascii=False) + "\n"
