"""Your own clips, or a set without an adapter, in any layout that `FolderSource` reads (see `wan_alpha.data.folders`).

Keys are the files' own names, so that `captions.csv`, `.json` or `.jsonl` can speak of them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from data_prep.sources import Choices, RawClip
from data_prep.sources.pairs import frames_differ
from wan_alpha.data.folders import FolderSource
from wan_alpha.data.media import Pair

WRITTEN = ("captions", "labels")
"""What people and models may have said of a folder that was ingested before."""


def clips(root: Path, problems: list[str], choices: Choices) -> Iterator[RawClip]:
    """Every usable clip below `root`; what cannot be used is named in `problems`.

    Raises:
        DataError: nothing below `root` can be used, or the captions cannot be read.
    """
    source = FolderSource(  # the step itself asks about colours, rates and mattes
        root, "all", choices.val_share, premultiplied="no", constant_rate=False, keep_inverted=True
    )
    problems += source.problems
    named = os.fsencode(root.resolve().name).decode(errors="replace")
    for index, clip in enumerate(source.clips):
        media = source.media(index)
        if isinstance(media, Pair) and (problem := frames_differ(media)):
            problems.append(problem)
            continue
        folder = media.fgr if isinstance(media, Pair) else media
        yield RawClip(
            clip.key, media, "", clip.caption, str(clip.meta.get("concept", clip.key)), clip.split,
            str(clip.meta.get("licence", choices.licence)), str(clip.meta.get("source", named)),
            fps=choices.fps if folder.is_dir() else None, composited=choices.composited,
            extra={name: clip.meta[name] for name in WRITTEN if name in clip.meta},
        )  # fmt: skip
