"""Pieces of the page as HTML.  Everything that comes from data is escaped."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any
from urllib.parse import quote

from data_prep.review.sprites import layout
from wan_alpha.data.annotations import Entry
from wan_alpha.data.source import Clip

SCORES = {
    "flow": "flow", "change": "change", "motion": "alpha motion", "translucent": "translucent", "glass": "glass, smoke",
    "soft": "soft edge", "edge_width": "edge width", "glow": "glow", "brightness": "brightness", "contrast": "contrast",
    "sharpness": "sharpness", "greyness": "greyness", "noise": "alpha noise", "haze": "haze", "coverage": "coverage",
}  # fmt: skip
"""Measures that are shown, with their names on the page; those that a clip lacks are left out."""

PLAYER = """
<div class="player" data-ground="checker">
  <div class="stage"><canvas></canvas><div class="problem"></div></div>
  <div class="bar">
    <button class="play" title="play or pause (space)"><i class="pause"></i></button>
    <input class="scrub" type="range" min="0" max="0" value="0" aria-label="frame">
    <span class="frame"></span>
  </div>
  <div class="bar grounds" role="radiogroup" aria-label="background">
    <button data-ground="checker" title="checkerboard"></button>
    <button data-ground="black" title="black"></button>
    <button data-ground="white" title="white"></button>
    <label title="any colour"><input class="any" type="color" value="#ff00ff" aria-label="any colour"></label>
    <button data-ground="alpha" title="alpha alone: white is opaque">&alpha;</button>
    <span class="facts"></span>
  </div>
</div>
<svg width="0" height="0" style="position:absolute"><filter id="alpha-alone" color-interpolation-filters="sRGB">
<feColorMatrix values="0 0 0 1 0  0 0 0 1 0  0 0 0 1 0  0 0 0 0 1"/></filter></svg>
"""

KEYS = (
    ("A", "accept"), ("R", "reject"), ("U", "undecided"), ("← →", "previous, next"), ("space", "play, pause"),
    (", .", "one frame"), ("B", "background"), ("E", "edit"), ("Esc", "leave the field"),
)  # fmt: skip


def keys_line() -> str:
    """The keyboard, in one line."""
    return "<div class='keys'>" + " ".join(f"<span><kbd>{key}</kbd> {what}</span>" for key, what in KEYS) + "</div>"


def spec(clip: Clip, following: str | None) -> str:
    """What the player needs to know, as data of an invisible element."""
    plan = layout(clip)
    told = {
        "key": clip.key, "url": sprite_url(clip.key), "next": sprite_url(following) if following else None,
        "frames": plan.frames, "stride": plan.stride, "columns": plan.columns, "width": plan.width,
        "height": plan.height, "fps": clip.fps / plan.stride,
        "facts": f"{clip.width} x {clip.height}, {clip.num_frames} frames, {clip.fps:g} fps",
    }  # fmt: skip
    return f'<div class="spec" data-spec="{escape(json.dumps(told), quote=True)}"></div>'


def sprite_url(key: str) -> str:
    """Where the page gets a clip's frames."""
    return f"/clips/{quote(key, safe='')}"


def heading(clip: Clip, values: Mapping[str, str], place: int, total: int) -> str:
    """The clip's name, its verdict and where it stands."""
    verdict = values["verdict"] or "undecided"
    licence, source = (escape(str(clip.meta.get(name, ""))) for name in ("licence", "source"))
    facts = " &middot; ".join(part for part in (clip.split, source, licence) if part)
    where = f"{place} of {total}" if place else "not in this list"
    return (
        f"<div class='heading'><b class='clip-key'>{escape(clip.key)}</b><span class='verdict {verdict}'>{verdict}"
        f"</span><span class='faint'>{where} &middot; {facts}</span></div>"
    )


def progress(counts: Mapping[str, int]) -> str:
    """How far the review is, as a bar."""
    total = max(sum(counts.values()), 1)
    done = total - counts["undecided"]
    parts = "".join(
        f"<i class='{name}' style='width:{100 * counts[name] / total:.2f}%'></i>" for name in ("accepted", "rejected")
    )
    words = f"{done} of {total} decided: {counts['accepted']} accepted, {counts['rejected']} rejected"
    return f"<div class='progress'><span>{words}</span><div class='track'>{parts}</div></div>"


def scores(clip: Clip, measures: Mapping[str, float | None]) -> str:
    """Measures as a table; those of curation win over those of ingest."""
    known = {**clip.meta, **measures}
    rows = [
        f"<tr><td>{title}</td><td class='number'>{float(known[name]):.3g}</td></tr>"
        for name, title in SCORES.items()
        if isinstance(known.get(name), int | float)
    ]
    if not rows:
        return "<div class='faint'>No measures: the folder was not ingested or curated.</div>"
    return f"<table class='scores'>{''.join(rows)}</table>"


def history(entries: Sequence[Entry]) -> str:
    """Who said what, the latest first."""
    if not entries:
        return "<div class='faint'>Nobody has said anything about this clip yet.</div>"
    rows = [
        f"<tr><td class='faint'>{escape(item.time[:16].replace('T', ' '))}</td><td>{escape(item.by)}</td>"
        f"<td>{escape(item.field)}</td><td>{escape(item.value) or '<i>cleared</i>'}</td></tr>"
        for item in entries[:40]
    ]
    return f"<table class='history'>{''.join(rows)}</table>"


def status(fields: Sequence[str], overwritten: Sequence[Entry], time: str) -> str:
    """What became of the last edit."""
    if overwritten:
        other = overwritten[0]
        return (
            f"<div class='status warn'>Saved {time}. {escape(other.by)} had changed {escape(other.field)} meanwhile to "
            f"&ldquo;{escape(other.value[:80])}&rdquo;; yours counts now, theirs is in the history.</div>"
        )
    return f"<div class='status'>Saved {escape(', '.join(fields))} at {time}</div>" if fields else ""


def problem(message: Any) -> str:
    """Something went wrong."""
    return f"<div class='status warn'>{escape(str(message))}</div>"
