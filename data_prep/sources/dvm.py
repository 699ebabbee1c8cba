"""DVM, Deep Video Matting: foreground stills and clips with mattes.

root/fg/image/{train,test}/{fg,alpha}/*.png          stills (test also has trimap/), which are Adobe's, put there by you
root/fg/video/{train,test}/0001/{f.mp4,a.mp4}        clips
root/bg/...                                          backgrounds, not read
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from data_prep.sources import Choices, RawClip
from data_prep.sources.pairs import make_key, nothing_there, partners
from wan_alpha.data.media import Pair

LICENCES = {
    "image": "Adobe Deep Image Matting dataset agreement: research only",
    "video": "DVM release agreement: research only",
}
SOURCES = {
    "image": "Adobe Deep Image Matting (Xu et al.: Deep Image Matting, CVPR 2017), as laid out for DVM",
    "video": "DVM (Sun et al.: Deep Video Matting via Spatio-Temporal Alignment and Aggregation, CVPR 2021)",
}
SPLITS = {"train": "train", "test": "val"}


def clips(root: Path, problems: list[str], choices: Choices) -> Iterator[RawClip]:
    """Stills, then clips, of both splits; a half that is not there is named.

    Raises:
        DataError: `root` is not DVM.
    """
    found = False
    for kind, find in (("image", _stills), ("video", _videos)):
        for name, split in SPLITS.items():
            folder = root / "fg" / kind / name
            if not folder.is_dir():
                problems.append(f"{folder}: missing, so its clips are")
                continue
            found = True
            for clip, pair in find(folder, problems):
                key = make_key("dvm", kind, name, clip)
                yield RawClip(key, pair, "", "", key, split, LICENCES[kind], SOURCES[kind])
    if not found:
        raise nothing_there(root, "DVM's fg/image/{train,test} or fg/video/{train,test}")


def _stills(folder: Path, problems: list[str]) -> Iterator[tuple[str, Pair]]:
    return partners(folder / "fg", folder / "alpha", problems)


def _videos(folder: Path, problems: list[str]) -> Iterator[tuple[str, Pair]]:
    for clip in sorted(entry for entry in folder.iterdir() if entry.is_dir()):
        pair = Pair(clip / "f.mp4", clip / "a.mp4")
        missing = [half.name for half in pair if not half.exists()]
        if missing:
            problems.append(f"{clip}: {' and '.join(missing)} missing")
        else:
            yield clip.name, pair
