"""curation.parquet: everything that curation found out and decided, one row per clip."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.curation.collect import Item, Seen
from data_prep.curation.verdicts import Verdict
from data_prep.measures import LabelLimits, measured_labels
from data_prep.measures.names import MEASURES
from wan_alpha.data.errors import DataError
from wan_alpha.data.media import Pair

TABLE = "curation.parquet"
Row = dict[str, Any]

SCHEMA = pa.schema(
    [
        ("folder", pa.string()), ("key", pa.string()), ("media", pa.string()), ("caption", pa.string()),
        ("concept", pa.string()), ("split", pa.string()), ("keep", pa.bool_()), ("reasons", pa.list_(pa.string())),
        ("duplicate_of", pa.string()), ("duplicate_kind", pa.string()), ("new_split", pa.string()),
        ("fps", pa.float64()), ("num_frames", pa.int32()), ("height", pa.int32()), ("width", pa.int32()),
        ("speed", pa.string()), ("quality", pa.string()), ("thumbnail", pa.string()),
        *((name, pa.float64()) for name in MEASURES),
        ("hashes", pa.list_(pa.uint64())),
    ]
)  # fmt: skip


def rows_of(items: Sequence[Item], seen: Sequence[Seen], verdicts: Sequence[Verdict], limits: LabelLimits) -> list[Row]:
    """One row per clip, as `SCHEMA` says."""
    rows = []
    for item, found, verdict in zip(items, seen, verdicts, strict=True):
        clip, labels = item.clip, measured_labels(found.measures, limits)
        other = None if verdict.duplicate_of is None else items[verdict.duplicate_of]
        media = item.media.fgr if isinstance(item.media, Pair) else item.media
        measures = {name: found.measures.get(name) for name in MEASURES}
        rows.append(
            {
                "folder": item.folder, "key": clip.key, "media": str(media), "caption": clip.caption,
                "concept": clip.meta.get("concept"), "split": clip.split, "keep": verdict.keep,
                "reasons": list(verdict.reasons), "duplicate_of": other and f"{other.folder}/{other.clip.key}",
                "duplicate_kind": verdict.duplicate_kind or None, "new_split": verdict.split, "fps": clip.fps,
                "num_frames": clip.num_frames, "height": clip.height, "width": clip.width,
                "speed": labels.get("speed"), "quality": labels.get("quality"), "thumbnail": found.content, **measures,
                "hashes": None if found.look is None else found.look.hashes.ravel().tolist(),
            }
        )  # fmt: skip
    return rows


def write_table(rows: Sequence[Row], out: Path) -> Path:
    """Write OUT/curation.parquet in one step."""
    partial = out / f"{TABLE}.tmp"
    pq.write_table(pa.Table.from_pylist(list(rows), schema=SCHEMA), partial)
    os.replace(partial, out / TABLE)
    return out / TABLE


def read_measures(table: Path) -> dict[str, dict[str, float | None]]:
    """{key: {measure: value}} of curation.parquet, for whoever labels or searches.

    Raises:
        DataError: the file is not there, or is no such table.
    """
    try:
        rows = pq.read_table(table, columns=["key", *MEASURES]).to_pylist()
    except (OSError, pa.ArrowException, KeyError) as error:
        raise DataError(f"{table}: not a table of data_prep.curate ({error}); run it again") from error
    return {row.pop("key"): row for row in rows}
