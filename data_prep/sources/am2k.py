"""AM-2k: 2,000 photos of animals with mattes, 1,800 for training and 200 for validation.

root/{train,validation}/original/m_xxxxxxxx.jpg   .../mask/m_xxxxxxxx.png   and, if somebody made them, .../fg/*.png
Where `fg/` has the closed-form foreground of a photo, its colours are taken.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from data_prep.sources import Choices, RawClip
from data_prep.sources.pairs import folder_of, make_key, media_in, nothing_there, partners
from wan_alpha.data.media import Pair

LICENCE = "MIT-style AM-2k release agreement"
SOURCE = "AM-2k (Li, Zhang, Maybank, Tao: Bridging Composite and Real, IJCV 2022)"
SPLITS = {"train": "train", "validation": "val"}


def clips(root: Path, problems: list[str], choices: Choices) -> Iterator[RawClip]:
    """Every animal of both splits.

    Raises:
        DataError: `root` is not AM-2k.
    """
    folders = {name: folder_of(root, [name]) for name in SPLITS}
    if not any(folders.values()):
        raise nothing_there(root, "AM-2k's train/ and validation/, each with original/ and mask/")
    for name, folder in folders.items():
        if folder is None:
            problems.append(f"{root / name}: missing, so its clips are")
            continue
        colours = media_in(folder / "fg", problems) if choices.given_foreground else {}
        for photo, pair in partners(folder / "original", folder / "mask", problems):
            key = make_key("am2k", photo)
            given = colours.get(photo)
            media = Pair(given, pair.pha) if given else pair
            yield RawClip(key, media, "", "", key, SPLITS[name], LICENCE, SOURCE, composited=given is None)
