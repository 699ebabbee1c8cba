"""What a person reads: the table of what each rule removes, and the histograms."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from data_prep.curation.collect import Item
from data_prep.curation.config import Limits, Thresholds
from data_prep.curation.decide import Outcome
from data_prep.curation.duplicates import Pair
from data_prep.curation.verdicts import Rule, Verdict, kind_of
from data_prep.measures.names import MEASURES

HISTOGRAMS = "histograms.png"
COLUMNS = 4
KEPT, REMOVED, MARK = "#3b75af", "#c8553d", "#222222"
BINS = 40


def rule_table(rules: Sequence[Rule], total: int) -> Table:
    """For terminals: what each rule removes by itself, and one after the other."""
    table = Table(title=f"{total} clips", box=box.SIMPLE_HEAD, caption="more: of those that the rules above left")
    table.add_column("rule", no_wrap=True)
    for heading in ("alone", "more", "left"):
        table.add_column(heading, justify="right")
    for rule in rules:
        table.add_row(rule.text, str(rule.alone), str(rule.more), str(rule.left))
    return table


def print_report(outcome: Outcome, sheet: Path) -> None:
    """Say on the terminal what came out, and where to look."""
    console = Console(width=100)
    console.print(rule_table(outcome.rules, len(outcome.items)))
    console.print(summary(outcome.items, outcome.verdicts, outcome.pairs), highlight=False)
    if outcome.measured:
        rate = 60 * outcome.measured / outcome.seconds
        console.print(f"measured {outcome.measured} clips, {rate:.0f} per minute", highlight=False)
    console.print(f"look through them: {sheet}", markup=False, highlight=False, soft_wrap=True)


def summary(items: Sequence[Item], verdicts: Sequence[Verdict], pairs: Sequence[Pair]) -> str:
    """Counts in a few lines: kept and removed by split, pairs of near-duplicates by where they stand."""
    kept = Counter(verdict.split for verdict in verdicts if verdict.keep)
    moved = sum(v.keep and v.split != item.clip.split for item, v in zip(items, verdicts, strict=True))
    kinds = Counter(kind_of(items, pair.first, pair.second) for pair in pairs)
    places = ", ".join(f"{kinds[kind]} {kind}" for kind in ("within the set", "across sets", "across the split"))
    lines = [
        f"kept {sum(kept.values())} of {len(items)} clips: {kept['train']} train, {kept['val']} val",
        f"pairs of near-duplicates: {places}",
    ]
    return "\n".join([*lines, f"moved from train to val: {moved}"] if moved else lines)


def draw_histograms(rows: Sequence[dict[str, Any]], thresholds: Thresholds, file: Path) -> None:
    """One histogram for each measure, kept and removed clips stacked, thresholds marked, as PNG.

    Args:
        rows: of curation.parquet.
        thresholds: where the marks are.
        file: the picture to write.
    """
    from matplotlib.figure import Figure

    count = len(MEASURES)
    figure = Figure(figsize=(4 * COLUMNS, 2.7 * math.ceil(count / COLUMNS)), layout="constrained")
    axes = figure.subplots(math.ceil(count / COLUMNS), COLUMNS, squeeze=False).ravel()
    for place, (name, about) in zip(axes, MEASURES.items(), strict=False):
        _histogram(place, rows, name, getattr(thresholds, name))
        place.set_title(f"{name}{f' [{about.unit}]' if about.unit else ''}", fontsize=11, fontweight="bold")
        place.set_xlabel(about.text, fontsize=7.5, wrap=True)
    for place in axes[count:]:
        place.axis("off")
    kept = sum(row["keep"] for row in rows)
    title = f"{kept} clips kept (blue), {len(rows) - kept} removed for any reason (red); "
    figure.suptitle(f"{title}dashed: thresholds; the last bar holds all that lies beyond")
    partial = file.with_suffix(".tmp")
    figure.savefig(partial, format="png", dpi=80)
    os.replace(partial, file)


def _histogram(place: Any, rows: Sequence[dict[str, Any]], name: str, limits: Limits) -> None:
    """One measure; far outliers go into the last bin, or everything else would be one bar."""
    from matplotlib.ticker import MaxNLocator

    values = [[row[name] for row in rows if row["keep"] is keep and row[name] is not None] for keep in (True, False)]
    known = sorted(values[0] + values[1])
    if not known:
        place.text(0.5, 0.5, "no clip has it", ha="center", va="center", transform=place.transAxes)
        return
    marks = [limit for limit in (limits.min, limits.max) if limit is not None]
    low, high = min(known[0], *marks, known[0]), max(known[int(0.995 * (len(known) - 1))], *marks, known[0])
    high = high if high > low else low + 1
    if high == limits.max and known[-1] > high:  # the last bin lies beyond the mark, as what it holds does
        high = low + (high - low) * BINS / (BINS - 1)
    cut = [[min(value, high) for value in some] for some in values]
    place.hist(cut, bins=BINS, range=(low, high), stacked=True, color=[KEPT, REMOVED])
    place.set_yscale("symlog", linthresh=10)
    place.set_ylabel("clips", fontsize=8)
    place.yaxis.set_major_formatter("{x:g}")
    place.xaxis.set_major_locator(MaxNLocator(6))
    place.tick_params(labelsize=8)
    for mark in marks:
        place.axvline(mark, color=MARK, linestyle="--", linewidth=1.5)
    if limits.min is not None:
        place.axvspan(low - (high - low), limits.min, color=REMOVED, alpha=0.12, linewidth=0)
    if limits.max is not None:
        place.axvspan(limits.max, high + (high - low), color=REMOVED, alpha=0.12, linewidth=0)
    place.set_xlim(low - 0.02 * (high - low), high + 0.02 * (high - low))
