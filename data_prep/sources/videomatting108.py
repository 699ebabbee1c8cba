"""VideoMatting108: 108 clips of 1080p RGBA frames, 80 for training and 28 for validation.

root/FG_done/<video>/*.png     colour and matte in one file
root/{train,val}_videos.txt    names of the videos of each split (or `*_videos_subset.txt`)
root/frame_corr.json           foreground frame -> background frame; says which frames there should be
(`BG_done/` and `flow_png/` are not read.)
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from data_prep.sources import Choices, RawClip
from data_prep.sources.pairs import make_key, nothing_there
from wan_alpha.data.errors import DataError
from wan_alpha.data.media import frame_files

LICENCE = "VideoMatting108: academic use only"
SOURCE = "VideoMatting108 (Zhang et al.: Attention-guided Temporally Coherent Video Object Matting, MM 2021)"
LISTS = ("{}_videos.txt", "{}_videos_subset.txt")


def clips(root: Path, problems: list[str], choices: Choices) -> Iterator[RawClip]:
    """Every listed video.  One that has fewer frames than `frame_corr.json` says is named and left out.

    Raises:
        DataError: `root` is not VideoMatting108, or `frame_corr.json` cannot be read.
    """
    videos = {split: _listed(root, split) for split in ("train", "val")}
    if not (root / "FG_done").is_dir() or not any(videos.values()):
        raise nothing_there(root, "VideoMatting108's FG_done/ and train_videos.txt or val_videos.txt")
    expected = _expected_frames(root / "frame_corr.json")
    for split, names in videos.items():
        if not names:
            problems.append(f"{root / LISTS[0].format(split)}: missing or empty, so its clips are missing")
        for name in names:
            if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
                problems.append(f"{root / LISTS[0].format(split)}: {name!r} leads out of the set; left out")
                continue
            folder = root / "FG_done" / name
            present = {file.name for file in frame_files(folder)} if folder.is_dir() else set()
            missing = sorted(expected.get(name, set()) - present)
            if not present or missing:
                which = f"{len(missing)} of {len(expected[name])} frames, {missing[0]} first" if missing else "frames"
                problems.append(f"{folder}: {which} missing; unpack the archive again")
                continue
            key = make_key("videomatting108", name)
            yield RawClip(key, folder, "", "", key, split, LICENCE, SOURCE, fps=choices.fps)


def _listed(root: Path, split: str) -> list[str]:
    """The names in the list of a split; the whole list wins over the subset."""
    for pattern in LISTS:
        file = root / pattern.format(split)
        if file.exists():
            return [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    return []


def _expected_frames(file: Path) -> dict[str, set[str]]:
    """{video: names of its frames}; empty if the file is not there."""
    if not file.exists():
        return {}
    try:
        frames = list(json.loads(file.read_text(encoding="utf-8")))
    except ValueError as error:
        raise DataError(f"{file}: not valid JSON ({error}); unpack it again") from error
    expected: dict[str, set[str]] = defaultdict(set)
    for frame in map(PurePosixPath, frames):
        expected[str(frame.parent)].add(frame.name)
    return expected
