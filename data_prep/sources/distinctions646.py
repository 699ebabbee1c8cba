"""Distinctions-646: 596 foregrounds with mattes for training and 50 for testing.

root/Train/FG/13(2).png   root/Train/GT/13(2).png   root/Test/...
Mirrors rename the folders; the names in `SPLITS` and `HALVES` are all understood, capital letters or not.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from data_prep.sources import Choices, RawClip
from data_prep.sources.pairs import folder_of, make_key, nothing_there, partners

LICENCE = "Distinctions-646: research only, non-commercial"
SOURCE = "Distinctions-646 (Qiao et al.: Attention-Guided Hierarchical Structure Aggregation, CVPR 2020)"
SPLITS = {"train": ("Train_ori", "Train"), "test": ("Test_ori", "Test")}
HALVES = (("FG", "Fg_images", "fgr"), ("GT", "Alpha_matte", "mask", "pha", "alpha"))


def clips(root: Path, problems: list[str], choices: Choices) -> Iterator[RawClip]:
    """Every foreground; the test images become validation clips.

    Raises:
        DataError: `root` is not Distinctions-646.
    """
    found = False
    for split, names in SPLITS.items():
        folder = folder_of(root, names)
        if folder is None:
            problems.append(f"{root}: no folder {' or '.join(names)}, so its clips are missing")
            continue
        colour, matte = (folder_of(folder, half) for half in HALVES)
        if colour is None or matte is None:
            raise nothing_there(folder, f"one of {', '.join(HALVES[0])} and one of {', '.join(HALVES[1])}")
        found = True
        for name, pair in partners(colour, matte, problems):
            key = make_key("distinctions646", split, name)
            yield RawClip(key, pair, "", "", key, "train" if split == "train" else "val", LICENCE, SOURCE)
    if not found:
        raise nothing_there(root, "Distinctions-646's Train/ and Test/ (or Train_ori/, Test_ori/)")
