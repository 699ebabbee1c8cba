"""VideoMatte240K: 484 clips of people, keyed from a green screen, with clean foreground colour.

root/{train,valid}/{fgr,pha}/0000/00000.jpg     JPEG frames, SD or HD; they do not say their frame rate
root/{train,test}/{fgr,pha}/0000.mp4            or videos, HD or 4K
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from data_prep.sources import Choices, RawClip
from data_prep.sources.pairs import folder_of, make_key, nothing_there, partners

LICENCE = "VideoMatte240K: academic and non-commercial use only"
SOURCE = "VideoMatte240K (Lin et al.: Real-Time High-Resolution Background Matting, CVPR 2021)"
SPLITS = {"train": ("train",), "val": ("valid", "test", "val")}


def clips(root: Path, problems: list[str], choices: Choices) -> Iterator[RawClip]:
    """Every clip of both splits; `choices.fps` is the frame rate of frame folders.

    Raises:
        DataError: `root` is not VideoMatte240K.
    """
    found = False
    for split, names in SPLITS.items():
        folder = folder_of(root, names)
        if folder is None:
            problems.append(f"{root}: no folder {' or '.join(names)}, so its clips are missing")
            continue
        found = True
        for name, pair in partners(folder / "fgr", folder / "pha", problems):
            key = make_key("videomatte240k", folder.name.lower(), name)
            fps = choices.fps if pair.fgr.is_dir() else None
            yield RawClip(key, pair, "", "", key, split, LICENCE, SOURCE, fps=fps)
    if not found:
        raise nothing_there(root, "VideoMatte240K's train/ and valid/ (or test/), each with fgr/ and pha/")
