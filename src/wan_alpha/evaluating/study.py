"""The A/B page of an evaluation, and task=preference, which counts its votes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.markdown import Markdown

from wan_alpha.evaluating.record import write_text
from wan_alpha.evaluation.preference import PreferenceError, StudyWriter, count_votes, draw_pairs, markdown
from wan_alpha.evaluation.prompts import Prompt
from wan_alpha.evaluation.summary import Summary
from wan_alpha.evaluation.videos import Shape, System, read


def write_study(
    out: Path, systems: Sequence[System], prompts: Sequence[Prompt], shape: Shape | None, convert: bool, height: int,
    seed: int,
) -> None:  # fmt: skip
    """Render every pair of systems on every prompt into ab.html; the key goes to ab_key.json."""
    pairs = draw_pairs([s.name for s in systems], [p.id for p in prompts], seed)
    texts, named = {p.id: p.text for p in prompts}, {s.name: s for s in systems}
    writer = StudyWriter(out / "ab.html", pairs, texts, height)
    for pair in pairs:
        left, right = named[pair.left].videos[pair.prompt], named[pair.right].videos[pair.prompt]
        frames = [read(video, shape, convert)[0] for video in (left, right)]
        writer.add(pair, frames[0], frames[1], shape.fps if shape else left.info.fps)
    writer.finish()


def preference(out: Path, votes: Sequence[str], seed: int) -> None:
    """Count exported votes against the key in `out`; writes preference.md and preference.json."""
    key = out / "ab_key.json"
    if not key.exists():
        raise PreferenceError(f"task=preference: {key} is missing; give out=DIR of an evaluation that wrote ab.html")
    if not votes:
        raise PreferenceError("task=preference: give votes=A.json,B.json, files that the A/B page exported")
    found = count_votes(key, [Path(v) for v in votes], seed)
    write_text(out / "preference.md", markdown(found))
    plain = Summary({}, facts={"preferences": [asdict(f) for f in found]}).to_json()["facts"]
    write_text(out / "preference.json", json.dumps(plain, indent=2, ensure_ascii=False) + "\n")
    Console().print(Markdown(markdown(found)))
