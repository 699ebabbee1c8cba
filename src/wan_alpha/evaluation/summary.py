"""From scores per clip to what is said of a system: means with intervals, over all clips and per category."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from wan_alpha.evaluation.figures import figure
from wan_alpha.evaluation.scores import Scores
from wan_alpha.evaluation.statistics import Estimate, estimate, over_categories

Row = dict[str, Estimate]


@dataclass
class Summary:
    """What came out.

    Attributes:
        systems: system -> figure -> mean over the common clips.
        categories: category -> system -> figure -> mean; empty with a single category.
        balanced: system -> figure -> unweighted mean of the categories' means; empty with a single category.
        clips: the clips that count, those which every system has.
        left_out: system -> clips it has and another lacks.
        failures: what could not be computed, one sentence each.
        facts: whatever else a reader must know (networks and their files, what was resampled, ...).
    """

    systems: dict[str, Row]
    categories: dict[str, dict[str, Row]] = field(default_factory=dict)
    balanced: dict[str, Row] = field(default_factory=dict)
    clips: list[str] = field(default_factory=list)
    left_out: dict[str, list[str]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    def figures(self) -> list[str]:
        """All figures of all systems, in order of appearance."""
        return list(dict.fromkeys(name for row in self.systems.values() for name in row))

    def to_json(self) -> dict[str, Any]:
        """Plain containers; NaN becomes null."""
        return _plain(asdict(self))


def summarise(scores: Scores, seed: int = 0) -> Summary:
    """Means over the clips that every system has; a figure that failed on one of them has no mean, only a count.

    A figure that a system has on some of those clips only (its other videos have no alpha) counts on these clips alone,
    for all systems that have it.
    """
    common = scores.common_clips()
    chosen = set(common)
    counting = _counting(scores, common)
    summary = Summary(systems={}, clips=common)
    categories = sorted({score.category for score in scores if score.clip in chosen})
    for system in scores.systems():
        rest = [clip for clip in scores.clips(system) if clip not in chosen]
        if rest:
            summary.left_out[system] = rest
        rows = {
            c: _values(scores, system, [clip for clip in common if _of(scores, system, clip) == c], counting)
            for c in categories
        }
        names = [name for name in scores.figures(system) if name in counting]
        summary.systems[system] = {
            name: estimate([value for c in categories for value in rows[c].get(name, [])], seed) for name in names
        }
        if len(categories) > 1:
            summary.balanced[system] = {
                name: over_categories([rows[c].get(name, []) for c in categories], seed) for name in names
            }
            for c in categories:
                summary.categories.setdefault(c, {})[system] = {n: estimate(v, seed) for n, v in rows[c].items()}
        summary.failures += _failures(scores, system, common)
    summary.failures += _partly(counting, common)
    return summary


def best(summary: Summary, name: str) -> set[str]:
    """The systems with the best mean of a figure, as printed; none where neither way is better or one is alone."""
    found = figure(name)
    means = {s: row[name].mean for s, row in summary.systems.items() if name in row}
    means = {s: mean for s, mean in means.items() if math.isfinite(mean)}
    if found.better == "none" or len(means) < 2:
        return set()
    top = (max if found.better == "up" else min)(means.values())
    return {s for s, mean in means.items() if round(mean, found.digits) == round(top, found.digits)}


def worst_clips(scores: Scores, system: str, name: str, count: int = 3) -> list[tuple[str, float]]:
    """Clips with the worst value of a figure, worst first; what failed is worse than anything."""
    sign = 1 if figure(name).better == "up" else -1
    rows = [(s.clip, s.figures[name]) for s in scores if s.system == system and name in s.figures]
    return sorted(rows, key=lambda row: sign * row[1] if math.isfinite(row[1]) else -math.inf)[:count]


def _of(scores: Scores, system: str, clip: str) -> str:
    score = scores.get(system, clip)
    return score.category if score else ""


def _counting(scores: Scores, common: list[str]) -> dict[str, list[str]]:
    """figure -> the common clips on which every system has it that has it on any of them."""
    found: dict[str, list[str]] = {}
    for system in scores.systems():
        own = {clip: score.figures for clip in common if (score := scores.get(system, clip))}
        for name in dict.fromkeys(name for figures in own.values() for name in figures):
            found[name] = [clip for clip in found.get(name, common) if name in own[clip]]
    return found


def _partly(counting: dict[str, list[str]], common: list[str]) -> list[str]:
    """What counts on some of the common clips only, figures with the same clips together."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for name, clips in counting.items():
        groups.setdefault(tuple(clips), []).append(figure(name).heading)
    return [
        f"only {len(clips)} of {len(common)} clips count for {', '.join(names)}: not every system has it on the others"
        for clips, names in groups.items()
        if len(clips) < len(common)
    ]


def _values(scores: Scores, system: str, clips: list[str], counting: dict[str, list[str]]) -> dict[str, list[float]]:
    """figure -> values over clips."""
    values: dict[str, list[float]] = {}
    chosen = {name: set(those) for name, those in counting.items()}
    for clip in clips:
        score = scores.get(system, clip)
        for name, value in score.figures.items() if score else ():
            if clip in chosen[name]:
                values.setdefault(name, []).append(value)
    return values


def _failures(scores: Scores, system: str, common: list[str]) -> list[str]:
    found: dict[str, list[str]] = {}
    for clip in common:
        score = scores.get(system, clip)
        for name, value in score.figures.items() if score else ():
            if not math.isfinite(value):
                found.setdefault(name, []).append(clip)
    return [
        f"{system}: {figure(name).heading} is not a number on {len(clips)} of {len(common)} clips "
        f"({', '.join(clips[:3])}{', ...' if len(clips) > 3 else ''}), so that it has no mean"
        for name, clips in found.items()
    ]


def _plain(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: _plain(value) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return [_plain(value) for value in node]
    if isinstance(node, float) and not math.isfinite(node):
        return None
    return node
