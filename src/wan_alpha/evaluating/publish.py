"""The report of a finished evaluation, and its copy at Weights & Biases."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wan_alpha.evaluating.config import EvaluateConfig
from wan_alpha.evaluation.report import Material, write_report
from wan_alpha.evaluation.scores import Scores
from wan_alpha.evaluation.summary import Summary
from wan_alpha.lineage import Piece, log_lineage, write_lineage


def publish(
    out: Path, summary: Summary, scores: Scores, config: EvaluateConfig, title: str, used: Sequence[Piece] = ()
) -> None:
    """Write report.html and lineage.json, and log tables, videos and artifacts if a logger is configured.

    Args:
        used: what was measured, and on what.
    """
    environment = json.loads((out / "environment.json").read_text())
    layouts = {clip: out / "players" / f"{clip}.json" for clip in summary.clips if config.report.players}
    panels = {p.stem.replace("worst-", "Worst clips of "): p for p in sorted((out / "panels").glob("worst-*.webp"))}
    material = Material(
        title=title,
        command=f"python {environment['command']}",
        config=json.loads((out / "config.json").read_text())["config"],
        environment=environment,
        players={clip: json.loads(p.read_text()) for clip, p in layouts.items() if p.exists()},
        folder=out / "players",
        panels=panels,
    )  # fmt: skip
    write_report(out / "report.html", summary, scores, material)
    made = [evaluation_piece(out)]
    write_lineage(out, made, used)
    if config.logger.wandb.mode != "disabled":
        log_to_wandb(out, summary, scores, config, material.config, made, used)


def evaluation_piece(out: Path) -> Piece:
    """The figures of an evaluation."""
    files = (out / "scores.csv", out / "summary.json", out / "table.md")
    return Piece("evaluation", hashlib.sha256(files[0].read_bytes() + files[1].read_bytes()).hexdigest(), files)


def log_to_wandb(
    out: Path, summary: Summary, scores: Scores, config: EvaluateConfig, tree: dict[str, Any],
    made: Sequence[Piece], used: Sequence[Piece],
) -> None:  # fmt: skip
    """One run with a table of means, a table of clips, the videos, and its place in the chain."""
    import wandb

    settings = config.logger.wandb
    run = wandb.init(
        project=settings.project, entity=settings.entity, name=settings.name or out.name, tags=settings.tags,
        dir=out, mode=settings.mode, config=tree, job_type="evaluate",
    )  # fmt: skip
    names = summary.figures()
    means = [[s, *(row[n].mean if n in row else None for n in names)] for s, row in summary.systems.items()]
    clips = [[s.system, s.clip, s.category, *(s.figures.get(n) for n in names)] for s in scores]
    content: dict[str, Any] = {
        "means": wandb.Table(columns=["system", *names], data=means),
        "clips": wandb.Table(columns=["system", "clip", "category", *names], data=clips),
    }
    for clip in summary.clips:
        film = out / "players" / f"{clip}.webm"
        if film.exists():
            content[f"videos/{clip}"] = wandb.Video(str(film), format="webm", caption=", ".join(summary.systems))
    run.log(content)
    run.summary.update({f"{s}/{n}": e.mean for s, row in summary.systems.items() for n, e in row.items()})
    log_lineage(run, made, used, settings.mode == "offline")
    run.finish()
