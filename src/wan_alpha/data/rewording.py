"""Other ways to say the same: articles, motion, the background.

A model that has only ever read "parrot" does not know "a parrot turning on a red background".  Which variant a sample
gets follows from its own random numbers.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

Rewording = Literal["plain", "varied"]

MOTION = ("moving", "in motion", "turning", "animated")
KINDS = ("a video of", "an animation of", "a 3d animation of")
TRANSPARENT = "transparent"
TEMPLATE_WORDS = [
    *MOTION, *KINDS, "a the an", "on a black background", "on a blue background", "on a green background",
    "on a cyan background", "on a red background", "on a magenta background", "on a yellow background",
    "on a white background", "on a transparent background",
]  # fmt: skip


def vary_caption(caption: str, ground: str | None, rng: np.random.Generator) -> str:
    """A caption in other words.

    Args:
        caption: what is shown, such as "parrot".
        ground: name of the background, such as "red" or "transparent"; named three times in five.  None: never.
        rng: the sample's own random numbers; the same number of draws is made whatever comes out.

    Returns:
        "" for an empty caption; else for example "a parrot", "parrot, moving, on a red background".
    """
    article, kind, motion, naming = rng.random(4)
    which_kind, which_motion = rng.integers(len(KINDS)), rng.integers(len(MOTION))
    words = caption.strip()
    if not words:
        return ""
    if article < 0.6 and words.split(" ")[0].lower() not in ("a", "an", "the"):
        words = f"{'an' if words[:1].lower() in 'aeiou' else 'a'} {words}" if article < 0.5 else f"the {words}"
    if kind < 0.15:
        words = f"{KINDS[which_kind]} {words}"
    if motion < 0.25:
        words = f"{words}{',' if motion < 0.05 else ''} {MOTION[which_motion]}"
    if ground is not None and naming < 0.6:
        words = f"{words}{',' if naming < 0.1 else ''} on a {ground} background"
    return words
