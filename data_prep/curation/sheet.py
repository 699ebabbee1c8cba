"""The contact sheet: one HTML file with every clip as a small moving picture; it needs neither server nor network."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_prep.curation.collect import THUMBNAILS
from data_prep.curation.config import SheetConfig
from data_prep.files import write_atomic
from data_prep.measures.names import MEASURES

SHEET = "contact_sheet.html"
TEMPLATE = Path(__file__).with_name("sheet.html")
FIELDS = ("folder", "key", "caption", "split", "new_split", "keep", "reasons", "duplicate_of", "speed", "quality")


def write_sheet(rows: Sequence[dict[str, Any]], out: Path, sheet: SheetConfig) -> Path:
    """Write OUT/contact_sheet.html in one step and return its path.

    Args:
        rows: of curation.parquet; their thumbnails lie in OUT/thumbnails.
        out: where to.
        sheet: how many clips at most; of a larger set, removed clips come first, then kept ones evenly.
    """
    shown = _chosen(rows, sheet.max_clips)
    clips = [
        {name: row[name] for name in FIELDS}
        | {"fps": row["fps"], "size": f"{row['width']}x{row['height']}"}
        | {"measures": [row[name] for name in MEASURES], "picture": _picture(out, row["thumbnail"])}
        for row in shown
    ]
    about = [{"name": name, "unit": entry.unit, "text": entry.text} for name, entry in MEASURES.items()]
    data = {"clips": clips, "measures": about, "total": len(rows), "side": sheet.side}
    # Within a script element only "<" could end it, or begin a comment.
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    write_atomic(out / SHEET, TEMPLATE.read_text(encoding="utf-8").replace("{{DATA}}", text).encode())
    return out / SHEET


def _chosen(rows: Sequence[dict[str, Any]], most: int) -> list[dict[str, Any]]:
    """The rows that are shown, in their order."""
    if len(rows) <= most:
        return list(rows)
    removed = [index for index, row in enumerate(rows) if not row["keep"]]
    kept = [index for index, row in enumerate(rows) if row["keep"]]
    removed = removed[:: max(1, -(-len(removed) // most))]
    room = most - len(removed)
    chosen = removed + ([kept[int(k * len(kept) / room)] for k in range(min(room, len(kept)))] if room > 0 else [])
    return [rows[index] for index in sorted(chosen)]


def _picture(out: Path, content: str) -> str:
    """A thumbnail in base64; empty for a clip that cannot be read."""
    file = out / THUMBNAILS / f"{content}.webp"
    return base64.b64encode(file.read_bytes()).decode() if file.exists() else ""
