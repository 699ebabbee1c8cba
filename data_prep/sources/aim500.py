"""AIM-500: 500 photos with mattes, in seven categories (portrait, animal, transparent, plant, furniture, toy, fruit).

root/original/o_0b7228ec.jpg   root/mask/o_0b7228ec.png   root/aim_category_type.json
(`trimap/` and `usr/` are not read.)  The set is a test set; a share of it, by the hash of the name, is held out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_prep.sources import Choices, RawClip
from data_prep.sources.pairs import make_key, nothing_there, partners
from wan_alpha.data.errors import DataError
from wan_alpha.data.folders import hold_out

LICENCE = "MIT-style AIM-500 release agreement"
SOURCE = "AIM-500 (Li, Zhang, Tao: Deep Automatic Natural Image Matting, IJCAI 2021)"
CATEGORIES = "aim_category_type.json"


def clips(root: Path, problems: list[str], choices: Choices) -> Iterator[RawClip]:
    """Every photo with its matte; `extra` has `category` and `type` (SO opaque, STM transparent or fine, NS neither).

    Raises:
        DataError: `root` is not AIM-500, or its JSON cannot be read.
    """
    if not (root / "original").is_dir() or not (root / "mask").is_dir():
        raise nothing_there(root, "AIM-500's original/ and mask/")
    facts = _facts(root / CATEGORIES, problems)
    pairs = dict(partners(root / "original", root / "mask", problems))
    held_out = hold_out(list(pairs), choices.val_share)
    for name, pair in pairs.items():
        key = make_key("aim500", name)
        yield RawClip(
            key, pair, "", "", key, "val" if name in held_out else "train", LICENCE, SOURCE,
            composited=True, extra=facts.get(name, {}),
        )  # fmt: skip


def _facts(file: Path, problems: list[str]) -> dict[str, dict[str, Any]]:
    """{name: {"category": ..., "type": ...}}, the published form of the JSON."""
    if not file.exists():
        problems.append(f"{file}: missing, so no clip has a category")
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        return {
            name: {what: facts[what] for what in ("category", "type") if what in facts}
            for name, facts in content.items()
        }
    except (ValueError, AttributeError, TypeError) as error:
        raise DataError(f"{file}: expected {{name: {{category, type}}}} ({error}); unpack it again") from error
