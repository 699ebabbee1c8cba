"""The Wan-Alpha release: clips and stills with captions.

root/fgr/NAME.mp4 or .png   root/pha/NAME.*   root/data.csv
`data.csv` has `video_fgr,video_pha,prompt,cache_path,frame_height,frame_width,num_frames`, several rows per clip, one
for each caption.  Its last three columns are sizes of the LATENT, and height and width are swapped: 104, 60, 21 stands
for 81 frames of 480x832 pixels.  The VAE list `video_fgr,video_pha,status` has no captions.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from data_prep.sources import Choices, RawClip
from data_prep.sources.pairs import frames_differ, make_key, media_in, nothing_there
from data_prep.sources.tables import Row, read_csv
from wan_alpha.data.folders import hold_out
from wan_alpha.data.media import Pair

LICENCE = "Wan-Alpha release: see its model card"
SOURCE = "Wan-Alpha training clips (Dong et al., 2025)"
LIST = "data.csv"
SPATIAL_STRIDE, TEMPORAL_STRIDE = 8, 4  # of the Wan VAE


def clips(root: Path, problems: list[str], choices: Choices) -> Iterator[RawClip]:
    """Every listed clip once, with its first caption; `extra` has all `captions` and the size it was `trained_at`.

    Raises:
        DataError: `root` is not the release, or `data.csv` is not a table with the two columns.
    """
    if not (root / LIST).exists() or not (root / "fgr").is_dir():
        raise nothing_there(root, f"the release's {LIST}, fgr/ and pha/")
    files = {half: media_in(root / half, problems) for half in ("fgr", "pha")}
    rows: dict[str, list[Row]] = {}
    for row in read_csv(root / LIST, ("video_fgr", "video_pha"), problems):
        rows.setdefault(PurePosixPath(row.cells["video_fgr"].replace("\\", "/")).stem, []).append(row)
    problems += [f"{files['fgr'][name]}: not in {LIST}" for name in sorted(files["fgr"].keys() - rows.keys())]
    found = {name: pair for name in rows if (pair := _pair(root, name, rows[name], files, problems))}
    held_out = hold_out(list(found), choices.val_share)
    for name, pair in sorted(found.items()):
        captions = list(dict.fromkeys(row.cells["prompt"] for row in rows[name] if row.cells.get("prompt")))
        yield RawClip(
            make_key("wanalpha", name), pair, "", captions[0] if captions else "", make_key("wanalpha", name),
            "val" if name in held_out else "train", LICENCE, SOURCE, extra=_extra(rows[name], captions, problems),
        )  # fmt: skip


def latent_size(cells: dict[str, str]) -> tuple[int, int, int]:
    """(num_frames, height, width) in frames and pixels that the last three columns of a row stand for.

    Raises:
        ValueError: a cell is not a number.
    """
    frames, height, width = (int(cells[name]) for name in ("num_frames", "frame_width", "frame_height"))
    return 1 + TEMPORAL_STRIDE * (frames - 1), SPATIAL_STRIDE * height, SPATIAL_STRIDE * width


def _pair(
    root: Path, name: str, rows: list[Row], files: dict[str, dict[str, Path]], problems: list[str]
) -> Pair | None:
    """The two files of a clip: by the names in the list, whatever folder they had on the machine that wrote it."""
    mattes = {PurePosixPath(row.cells["video_pha"].replace("\\", "/")).stem for row in rows}
    if len(mattes) > 1:
        problems.append(f"{rows[0].where}: {name!r} has several mattes in the list: {', '.join(sorted(mattes))}")
        return None
    matte = mattes.pop()
    missing = [f"{half}/{stem}" for half, stem in (("fgr", name), ("pha", matte)) if stem not in files[half]]
    if missing:
        problems.append(f"{rows[0].where}: {' and '.join(missing)} not found below {root}")
        return None
    pair = Pair(files["fgr"][name], files["pha"][matte])
    if problem := frames_differ(pair):
        problems.append(problem)
        return None
    return pair


def _extra(rows: list[Row], captions: list[str], problems: list[str]) -> dict[str, object]:
    """What the list says beyond the first caption."""
    first = rows[0].cells
    extra: dict[str, object] = {"captions": captions}
    if first.get("status"):
        extra["status"] = first["status"]
    if first.get("frame_height"):
        try:
            extra["trained_at"] = list(latent_size(first))
        except (ValueError, KeyError, TypeError):
            problems.append(f"{rows[0].where}: the latent's size is not three whole numbers; left out")
    return extra
