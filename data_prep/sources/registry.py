"""The sets by name.  A new set is one module beside this one and one line here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from data_prep.sources import (
    Adapter,
    Choices,
    RawClip,
    aim500,
    am2k,
    distinctions646,
    dvm,
    fluent,
    generic,
    videomatte240k,
    videomatting108,
    wanalpha,
)
from wan_alpha.data.errors import DataError


def _fluent(root: Path, problems: list[str], choices: Choices) -> Iterator[RawClip]:
    return fluent.clips(root, choices.skin_tones)


SOURCES: dict[str, Adapter] = {
    "fluent": _fluent,
    "aim500": aim500.clips,
    "am2k": am2k.clips,
    "distinctions646": distinctions646.clips,
    "dvm": dvm.clips,
    "videomatting108": videomatting108.clips,
    "videomatte240k": videomatte240k.clips,
    "wanalpha": wanalpha.clips,
    "generic": generic.clips,
}


def adapter(name: str, root: Path) -> Adapter:
    """The adapter of a set, once it is sure that there is one and that `root` is a folder.

    Raises:
        DataError: the set is unknown, or `root` is no folder.
    """
    if name not in SOURCES:
        raise DataError(f"source={name}: unknown set; expected one of {', '.join(SOURCES)}")
    if not root.is_dir():
        raise DataError(f"root={root}: expected the folder of {name}, found {'a file' if root.exists() else 'nothing'}")
    return SOURCES[name]
