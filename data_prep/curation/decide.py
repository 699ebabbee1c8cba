"""From folders to rows and verdicts: everything of the step but its reports."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data_prep.curation.collect import Item, collect, items_of
from data_prep.curation.config import CurateConfig
from data_prep.curation.duplicates import Pair
from data_prep.curation.table import Row, rows_of
from data_prep.curation.verdicts import Rule, Verdict, judge
from data_prep.engine import open_engine
from data_prep.measures import LabelLimits


@dataclass(frozen=True)
class Outcome:
    """What came out.

    Attributes:
        out: where results go.
        folders: the data set folders by name.
        items, verdicts: of every clip.
        rows: of curation.parquet.
        rules: what each removed.
        pairs: all near-duplicates.
        measured: clips that were not in the cache.
        seconds: that it took to look at them.
    """

    out: Path
    folders: dict[str, Path]
    items: Sequence[Item]
    verdicts: Sequence[Verdict]
    rows: Sequence[Row]
    rules: Sequence[Rule]
    pairs: Sequence[Pair]
    measured: int
    seconds: float


def decide(config: CurateConfig) -> Outcome:
    """Look at every clip and decide.

    Raises:
        DataError: a folder holds no usable clip, or two have the same name.
    """
    roots = [Path(root).expanduser() for root in ([config.root] if isinstance(config.root, str) else config.root)]
    out = Path(config.out).expanduser() if config.out else Path(f"{roots[0].resolve()}-curation")
    problems: list[str] = []
    items = items_of(roots, config.val_share, problems)
    for problem in problems:
        print(f"skipped: {problem}", file=sys.stderr)
    out.mkdir(parents=True, exist_ok=True)
    begin = time.monotonic()
    with open_engine(config.engine, config.workers, config.ray) as engine:
        seen, measured = collect(items, out, config.measure, config.sheet, engine)
    seconds = time.monotonic() - begin
    verdicts, rules, pairs = judge(items, seen, config.thresholds, config.duplicates)
    labels = config.labels
    rows = rows_of(items, seen, verdicts, LabelLimits(labels.slow, labels.fast, labels.blurred, labels.greyish))
    folders = {root.resolve().name: root for root in roots}
    return Outcome(out, folders, items, verdicts, rows, rules, pairs, measured, seconds)
