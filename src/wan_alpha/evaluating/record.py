"""The directory of an evaluation: everything needed to repeat it, and everything that came out."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wan_alpha.data.resize import Frames
from wan_alpha.evaluation import formats
from wan_alpha.evaluation.players import make_player
from wan_alpha.evaluation.scores import Scores
from wan_alpha.evaluation.summary import Summary
from wan_alpha.training.identity import flatten
from wan_alpha.training.provenance import describe_environment, write_json

FREE = ("out", "report", "logger", "device", "compare", "fail_on_worse", "vbench")
"""Keys that change nothing that is measured."""


class RecordError(ValueError):
    """A directory holds something else than what is to be written or read."""


def begin(out: Path, tree: dict[str, Any], facts: dict[str, Any]) -> None:
    """Write down what is measured and with what; refuse a directory that holds another evaluation.

    Args:
        out: the directory.
        tree: the whole configuration.
        facts: what else the figures depend on (hashes of data, fingerprints of weights).
    """
    out.mkdir(parents=True, exist_ok=True)
    identity = {"config": tree, "facts": facts}
    file = out / "config.json"
    if file.exists():
        before = json.loads(file.read_text())
        old, new = ({k: v for k, v in flatten(x).items() if not _free(k)} for x in (before, identity))
        differing = [f"{k}: {old.get(k)} -> {new.get(k)}" for k in sorted(old | new) if old.get(k) != new.get(k)]
        if differing:
            raise RecordError(
                f"{out} holds another evaluation:\n  "
                + "\n  ".join(differing)
                + "\nChoose another out=DIR, or remove it"
            )
    write_json(file, identity)
    environment = describe_environment()
    # As it was typed, not as Hydra wants it.
    environment["command"] = re.sub(r"='([\w./:,-]+)'", r"=\1", environment["command"].replace(" ++", " "))
    write_json(out / "environment.json", environment)


def _free(key: str) -> bool:
    return any(key == f"config.{name}" or key.startswith(f"config.{name}.") for name in FREE)


def write_results(out: Path, summary: Summary, scores: Scores) -> None:
    """Tables: scores.csv, summary.csv, summary.json, table.md, table.tex."""
    text = json.dumps(summary.to_json(), indent=2, ensure_ascii=False)  # not sorted: systems keep their order
    write_text(out / "summary.json", f"{text}\n")
    write_text(out / "scores.csv", formats.scores_csv(scores))
    write_text(out / "summary.csv", formats.summary_csv(summary))
    write_text(out / "table.md", markdown_page(summary))
    write_text(out / "table.tex", formats.latex(summary))


def markdown_page(summary: Summary) -> str:
    """The tables, and what they do not show."""
    page = f"Means over {len(summary.clips)} clips with 95 % bootstrap intervals.\n\n{formats.markdown(summary)}"
    if summary.balanced:
        page += f"\nUnweighted means of the categories:\n\n{formats.markdown(summary, summary.balanced)}"
    for category, rows in summary.categories.items():
        page += f"\n{category}:\n\n{formats.markdown(summary, rows)}"
    notes = [f"{s}: {len(clips)} clips left out, because another system lacks them: {', '.join(clips)}"
             for s, clips in summary.left_out.items()] + summary.failures  # fmt: skip
    return page + "".join(f"\n- {note}" for note in notes) + ("\n" if notes else "")


def write_player(out: Path, clip: str, videos: Mapping[str, Frames], fps: float, height: int) -> None:
    """The systems' videos of one clip, side by side for the report: see `make_player`."""
    player = make_player(videos, fps, height)
    write_bytes(out / "players" / f"{clip}.webm", player.webm)
    write_text(out / "players" / f"{clip}.json", json.dumps(player.layout | {"asked": height}))


def has_player(out: Path, clip: str, height: int) -> bool:
    """Whether `write_player` has written this one, of this height."""
    layout = out / "players" / f"{clip}.json"
    return layout.exists() and json.loads(layout.read_text()).get("asked") == height


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.tmp")
    partial.write_bytes(content)
    os.replace(partial, path)
