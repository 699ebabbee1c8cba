"""compare=RUN_A,RUN_B: the regression gate."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.markdown import Markdown

from wan_alpha.evaluating.record import RecordError, write_text
from wan_alpha.evaluation.compare import Change, compare, markdown
from wan_alpha.evaluation.scores import FILE, Scores
from wan_alpha.evaluation.summary import Summary
from wan_alpha.training.identity import flatten


class RegressionError(RuntimeError):
    """Something got worse, and `fail_on_worse` asked for that to be an error."""


def run_comparison(first: Path, second: Path, out: Path, seed: int, fail_on_worse: bool) -> list[Change]:
    """Compare two directories of `evaluate.py`; writes comparison.md and comparison.json.

    Raises:
        RecordError: a directory holds no scores, or they measured different things.
        RegressionError: see `fail_on_worse`.
    """
    for folder in (first, second):
        if not (folder / FILE).exists():
            raise RecordError(f"compare: {folder} holds no {FILE}; give two directories that evaluate.py wrote")
    changes = compare(Scores(first), Scores(second), seed)
    notes = differences(first, second)
    page = f"Before: {first}\nAfter: {second}\n\n{markdown(changes)}"
    if notes:
        page += "\nMeasured differently:\n\n" + "".join(f"- {note}\n" for note in notes)
    write_text(out / "comparison.md", page)
    rows = [asdict(change) for change in changes]
    plain = Summary({}, facts={"changes": rows, "measured differently": notes}).to_json()["facts"]
    write_text(out / "comparison.json", json.dumps(plain, indent=2, ensure_ascii=False) + "\n")
    console = Console()
    console.print(Markdown(page))
    worse = [f"{c.system} {c.name}" for c in changes if c.verdict == "worse"]
    better = sum(c.verdict == "better" for c in changes)
    counted = f"{len(worse)} worse, {better} better, of {len(changes)} figures: {out / 'comparison.md'}"
    console.print(counted, markup=False, soft_wrap=True)
    if worse and fail_on_worse:
        raise RegressionError(f"worse beyond noise: {', '.join(worse)}")
    return changes


MAY_DIFFER = ("config.adapters", "config.codecs", "config.videos", "config.base", "config.out", "facts.videos")
"""What two evaluations that are compared are expected to differ in."""


def differences(first: Path, second: Path) -> list[str]:
    """Keys that two evaluations measured with differently, and that are not what is compared."""
    trees = []
    for folder in (first, second):
        file = folder / "config.json"
        trees.append(flatten(json.loads(file.read_text())) if file.exists() else {})
    keys = sorted(trees[0].keys() | trees[1].keys())
    measured = [k for k in keys if not k.startswith(("config.report", "config.logger", *MAY_DIFFER))]
    return [f"{k}: {trees[0].get(k)} -> {trees[1].get(k)}" for k in measured if trees[0].get(k) != trees[1].get(k)]
