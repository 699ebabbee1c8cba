"""The report: one HTML page that needs no other file, no server and no network."""

from __future__ import annotations

import base64
import html
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from wan_alpha.evaluation.figures import ARROWS, figure
from wan_alpha.evaluation.scores import Scores, plain
from wan_alpha.evaluation.summary import Summary, best


@dataclass
class Material:
    """What goes into the page beside the figures.

    Attributes:
        title: of the page.
        command: that made it.
        config, environment: for the record.
        players: clip -> layout (`height`, `cells`, `fps`); its video lies at `folder/CLIP.webm`.
        folder: where the videos are.
        panels: heading -> picture file.
    """

    title: str
    command: str
    config: dict[str, Any]
    environment: dict[str, Any]
    players: dict[str, Any] = field(default_factory=dict)
    folder: Path | None = None
    panels: dict[str, Path] = field(default_factory=dict)


def write_report(path: Path, summary: Summary, scores: Scores, material: Material) -> None:
    """Write the page, atomically; videos go through memory one at a time."""
    page = _part("report.html")
    for mark, name in (("/*CSS*/", "page.css"), ("/*PLAYER*/", "player.js"), ("/*SCRIPT*/", "report.js")):
        page = page.replace(mark, _part(name))
    page = page.replace("<!--PANELS-->", "".join(_panel(name, file) for name, file in material.panels.items()))
    before, after = page.split("<!--VIDEOS-->")
    before = before.replace("/*DATA*/", as_json(_data(summary, scores, material)))
    partial = path.with_name(f"{path.name}.tmp")
    with partial.open("w", encoding="utf-8") as out:
        out.write(before)
        for clip in material.players:
            assert material.folder is not None
            out.write(video_element(f"video-{clip}", (material.folder / f"{clip}.webm").read_bytes()))
        out.write(after)
    os.replace(partial, path)


def as_json(content: Any) -> str:
    """JSON that can stand inside of a script element, whatever strings it holds."""
    return json.dumps(content, ensure_ascii=False).replace("<", "\\u003c")


def video_element(name: str, webm: bytes) -> str:
    """A video inside of the page, decoded only when it is looked at."""
    text = base64.b64encode(webm).decode()
    return f'<script type="text/plain" id="{html.escape(name, quote=True)}">{text}</script>\n'


def _part(name: str) -> str:
    return files("wan_alpha.evaluation").joinpath(name).read_text(encoding="utf-8")


def _panel(name: str, file: Path) -> str:
    kind = file.suffix.removeprefix(".")
    text = base64.b64encode(file.read_bytes()).decode()
    title = html.escape(name, quote=True)
    return f'<h2>{title}</h2><div class="panel"><img alt="{title}" src="data:image/{kind};base64,{text}"></div>\n'


def _data(summary: Summary, scores: Scores, material: Material) -> dict[str, Any]:
    prompts = summary.facts.get("prompts", {})
    categories = {score.clip: score.category for score in scores}
    per_clip: dict[str, dict[str, Mapping[str, float | None]]] = {}
    for score in scores:
        per_clip.setdefault(score.system, {})[score.clip] = plain(score.figures)
    names = summary.figures()
    return summary.to_json() | {
        "title": material.title,
        "lead": f"{len(summary.systems)} systems, {len(summary.clips)} clips that all of them have",
        "figures": [
            {"name": n, "heading": f.heading, "arrow": ARROWS[f.better], "better": f.better, "digits": f.digits,
             "definition": f.definition}
            for n in names for f in [figure(n)]
        ],
        "best": {name: sorted(best(summary, name)) for name in names},
        "clips": [{"id": c, "category": categories.get(c, "all")} | prompts.get(c, {}) for c in summary.clips],
        "scores": per_clip,
        "players": material.players,
        "command": material.command,
        "config": material.config,
        "environment": material.environment,
    }  # fmt: skip
