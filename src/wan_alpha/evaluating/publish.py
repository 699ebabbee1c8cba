"""The report of a finished evaluation, and its copy at Weights & Biases."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..evaluation.report import Material, write_report
from ..evaluation.scores import Scores
from ..evaluation.summary import Summary
from .config import EvaluateConfig


def publish(out: Path, summary: Summary, scores: Scores, config: EvaluateConfig, title: str) -> None:
    """Write report.html, and log tables and videos if a logger is configured."""
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
    if config.logger.wandb.mode != "disabled":
        log_to_wandb(out, summary, scores, config, material.config)


def log_to_wandb(out: Path, summary: Summary, scores: Scores, config: EvaluateConfig, tree: dict[str, Any]) -> None:
    """One run with a table of means, a table of clips, and the videos."""
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
    run.finish()
