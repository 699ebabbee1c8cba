"""A blind A/B study: a page on which people vote, and what their votes say.

The page never holds a system's name: sides are drawn at random, videos are rendered anew for each pair, and the key is
a file of its own, which stays with whoever runs the study.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import binomtest

from wan_alpha.data.resize import Frames
from wan_alpha.evaluation.players import make_player
from wan_alpha.evaluation.report import as_json, video_element
from wan_alpha.evaluation.statistics import LEVEL, RESAMPLES

CHOICES = ("left", "right", "tie")


class PreferenceError(ValueError):
    """Votes cannot be read, or belong to another study."""


@dataclass(frozen=True)
class Pair:
    """One question: a prompt, and which system stands on which side."""

    id: str
    prompt: str
    left: str
    right: str


def draw_pairs(systems: Sequence[str], prompts: Sequence[str], seed: int) -> list[Pair]:
    """Every pair of systems on every prompt, sides and order at random."""
    rng = np.random.default_rng(seed)
    pairs = []
    for prompt in prompts:
        for a, b in itertools.combinations(systems, 2):
            left, right = (a, b) if rng.integers(2) else (b, a)
            name = hashlib.sha256(f"{seed}/{prompt}/{a}/{b}".encode()).hexdigest()[:10]
            pairs.append(Pair(name, prompt, left, right))
    rng.shuffle(pairs)
    return pairs


class StudyWriter:
    """Writes ab.html and ab_key.json, one pair in memory at a time.

    Args:
        path: of the page.
        pairs: the questions in order.
        texts: prompt id -> its text.
        height: of the videos.
    """

    def __init__(self, path: Path, pairs: Sequence[Pair], texts: Mapping[str, str], height: int) -> None:
        self.path, self.pairs, self.texts, self.height = path, list(pairs), texts, height
        self.content = hashlib.sha256()  # what is voted on: other videos of the same systems are another study
        self.layouts: dict[str, Any] = {}
        self.videos: list[tuple[str, Path]] = []

    def add(self, pair: Pair, left: Frames, right: Frames, fps: float) -> None:
        """Render one pair; the video waits in a file beside the page."""
        player = make_player({"A": left, "B": right}, fps, self.height)
        self.layouts[pair.id] = player.layout
        self.content.update(pair.id.encode())
        for part in (left, right):
            self.content.update(np.ascontiguousarray(part).data)
        file = self.path.with_name(f".ab-{pair.id}.webm.tmp")
        file.write_bytes(player.webm)
        self.videos.append((pair.id, file))

    def finish(self) -> None:
        """Write the page and the key."""
        study = self.content.hexdigest()[:12]
        data = {
            "study": study,
            "pairs": [{"id": p.id, "text": self.texts[p.prompt]} for p in self.pairs if p.id in self.layouts],
            "players": self.layouts,
        }
        page = _part("ab.html")
        for mark, name in (("/*CSS*/", "page.css"), ("/*PLAYER*/", "player.js"), ("/*SCRIPT*/", "ab.js")):
            page = page.replace(mark, _part(name))
        before, after = page.replace("/*DATA*/", as_json(data)).split("<!--VIDEOS-->")
        partial = self.path.with_name(f"{self.path.name}.tmp")
        with partial.open("w", encoding="utf-8") as out:
            out.write(before)
            for name, file in self.videos:
                out.write(video_element(f"video-{name}", file.read_bytes()))
                file.unlink()
            out.write(after)
        key = {"study": study, "pairs": {p.id: vars(p) for p in self.pairs}}
        self.path.with_name("ab_key.json").write_text(json.dumps(key, indent=2, ensure_ascii=False) + "\n")
        os.replace(partial, self.path)


def _part(name: str) -> str:
    return files("wan_alpha.evaluation").joinpath(name).read_text(encoding="utf-8")


@dataclass(frozen=True)
class Preference:
    """How often `a` was preferred to `b`, ties as half a vote.

    Attributes:
        share: of the votes for `a`.
        low, high: 95 % interval; whole prompts are resampled, as votes on one prompt are not independent.
        p_value: of the sign test without ties, two-sided.
    """

    a: str
    b: str
    wins: int
    ties: int
    losses: int
    share: float
    low: float
    high: float
    p_value: float


def count_votes(key_file: Path, vote_files: Sequence[Path], seed: int = 0) -> list[Preference]:
    """What the votes of several people say, per pair of systems.

    A person's later vote on a pair replaces an earlier one.

    Raises:
        PreferenceError: a file is damaged, of another study, or holds a vote on an unknown pair.
    """
    key = _read(key_file)
    try:
        pairs = {name: Pair(**pair) for name, pair in key["pairs"].items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise PreferenceError(f"{key_file}: no key of a study ({error!r}); give out=DIR of an evaluation") from error
    votes: dict[tuple[str, str], str] = {}
    for file in vote_files:
        content = _read(file)
        if content.get("study") != key["study"]:
            raise PreferenceError(f"{file}: votes of study {content.get('study')}, the key is of {key['study']}")
        given = content.get("votes")
        for vote in given if isinstance(given, list) else [given]:
            if not isinstance(vote, dict) or vote.get("pair") not in pairs or vote.get("choice") not in CHOICES:
                raise PreferenceError(f"{file}: not a vote of this study: {vote}")
            votes[str(content.get("rater") or file.name), vote["pair"]] = vote["choice"]
    if not votes:
        raise PreferenceError("no votes in " + ", ".join(str(file) for file in vote_files))
    results: dict[tuple[str, str], dict[str, list[float]]] = {}
    for (_, name), choice in votes.items():
        pair = pairs[name]
        a, b = sorted((pair.left, pair.right))
        chosen = {"left": pair.left, "right": pair.right}.get(choice)
        value = 0.5 if chosen is None else float(chosen == a)
        results.setdefault((a, b), {}).setdefault(pair.prompt, []).append(value)
    return [_preference(a, b, by_prompt, seed) for (a, b), by_prompt in sorted(results.items())]


def _preference(a: str, b: str, by_prompt: dict[str, list[float]], seed: int) -> Preference:
    values = [v for votes in by_prompt.values() for v in votes]
    wins, ties, losses = values.count(1.0), values.count(0.5), values.count(0.0)
    low = high = float("nan")
    if len(by_prompt) > 1:
        rng, groups = np.random.default_rng(seed), list(by_prompt.values())
        draws = [[groups[i] for i in rng.integers(len(groups), size=len(groups))] for _ in range(RESAMPLES)]
        shares = [np.mean([v for group in draw for v in group]) for draw in draws]
        low, high = (float(q) for q in np.quantile(shares, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]))
    decided = wins + losses
    p = float(binomtest(wins, decided).pvalue) if decided else 1.0
    return Preference(a, b, wins, ties, losses, float(np.mean(values)), low, high, p)


def markdown(found: Sequence[Preference]) -> str:
    """One line per pair of systems."""
    lines = ["| A | B | A wins | ties | B wins | share of A | 95 % interval | sign test p |",
             "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |"]  # fmt: skip
    for f in found:
        between = "–" if math.isnan(f.low) else f"{f.low:.3f}–{f.high:.3f}"
        lines.append(
            f"| {f.a} | {f.b} | {f.wins} | {f.ties} | {f.losses} | {f.share:.3f} | {between} | {f.p_value:.3g} |"
        )
    return "\n".join(lines) + "\n"


def _read(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(content, dict) or "study" not in content:
            raise ValueError("no study in it")
        return content
    except (OSError, ValueError) as error:
        raise PreferenceError(f"{file}: cannot be read ({error}); give a file that the A/B page exported") from error
