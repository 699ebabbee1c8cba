"""Two evaluations of the same clips: what got better or worse beyond the noise of the clips."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from wan_alpha.evaluation.figures import figure, show
from wan_alpha.evaluation.scores import Scores, ScoresError
from wan_alpha.evaluation.statistics import interval

Verdict = Literal["better", "worse", "differs", "no evidence", "not comparable"]
FEWEST = 5
"""With fewer pairs than this an interval of differences says nothing."""


@dataclass(frozen=True)
class Change:
    """A figure of a system, before and after, over the clips that both evaluations have.

    Attributes:
        before, after: means over the shared clips.
        low, high: 95 % interval of the mean of the paired differences, after - before.
        verdict: "better" or "worse" if the interval leaves 0 out; "differs" for figures without a better way.
    """

    system: str
    name: str
    before: float
    after: float
    low: float
    high: float
    count: int
    verdict: Verdict


def compare(before: Scores, after: Scores, seed: int = 0) -> list[Change]:
    """Every figure of every system that both evaluations have, by paired bootstrap over their shared clips.

    Raises:
        ScoresError: they share no system, or no clip.
    """
    systems = [s for s in before.systems() if s in after.systems()]
    if not systems:
        raise ScoresError(
            f"no system is in both: {', '.join(before.systems())} before, {', '.join(after.systems())} after"
        )
    changes = []
    for system in systems:
        known = set(after.clips(system))
        clips = [clip for clip in before.clips(system) if clip in known]
        if not clips:
            raise ScoresError(f"{system}: no clip is in both evaluations")
        for name in before.figures(system):
            pairs = _pairs(before, after, system, clips, name)
            if len(pairs):
                changes.append(_change(system, name, pairs, seed))
    return changes


def _pairs(before: Scores, after: Scores, system: str, clips: list[str], name: str) -> np.ndarray:
    """(clips, 2): the values of a figure that both have."""
    rows = []
    for clip in clips:
        a, b = before.get(system, clip), after.get(system, clip)
        if a and b and name in a.figures and name in b.figures:
            rows.append((a.figures[name], b.figures[name]))
    return np.asarray(rows, dtype=np.float64).reshape(-1, 2)


def _change(system: str, name: str, pairs: np.ndarray, seed: int) -> Change:
    before, after = (float(mean) for mean in pairs.mean(0))
    differences = pairs[:, 1] - pairs[:, 0]
    if not np.isfinite(pairs).all() or len(pairs) < FEWEST:
        return Change(system, name, before, after, math.nan, math.nan, len(pairs), "not comparable")
    low, high = interval(differences, seed)
    verdict: Verdict = "no evidence"
    if low > 0 or high < 0:
        better = figure(name).better
        verdict = "differs" if better == "none" else "better" if (low > 0) == (better == "up") else "worse"
    return Change(system, name, before, after, low, high, len(pairs), verdict)


def markdown(changes: list[Change]) -> str:
    """One line per figure, what changed first."""
    order = {"worse": 0, "better": 1, "differs": 2, "not comparable": 3, "no evidence": 4}
    lines = ["| system | figure | before | after | difference, 95 % interval | clips | verdict |",
             "| --- | --- | ---: | ---: | ---: | ---: | --- |"]  # fmt: skip
    for c in sorted(changes, key=lambda c: order[c.verdict]):
        between = "–" if math.isnan(c.low) else f"{_signed(c.name, c.low)} to {_signed(c.name, c.high)}"
        verdict = f"**{c.verdict}**" if c.verdict in ("better", "worse") else c.verdict
        lines.append(
            f"| {c.system} | {figure(c.name).heading} | {show(c.name, c.before)} | {show(c.name, c.after)} | "
            f"{between} | {c.count} | {verdict} |"
        )
    return "\n".join(lines) + "\n"


def _signed(name: str, value: float) -> str:
    return f"{value:+.{figure(name).digits}f}"
