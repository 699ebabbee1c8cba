"""Several sources as one."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

from wan_alpha.data.resize import Frames
from wan_alpha.data.source import ClipSource, hash_manifest


class MixedSource:
    """The clips of several sources, one source after the other (`ClipSource`).

    How often each is seen is a matter of the order (`SampleOrder`).

    Args:
        parts: at least one source.
    """

    def __init__(self, parts: Sequence[ClipSource]) -> None:
        self.parts = list(parts)
        self.clips = [clip for part in parts for clip in part.clips]
        self.problems = [problem for part in parts for problem in part.problems]
        self.manifest_hash = hash_manifest((part.manifest_hash,) for part in parts)
        self._starts = [0, *accumulate(len(part) for part in parts)]

    def __len__(self) -> int:
        return len(self.clips)

    def read(self, index: int, start: int, count: int, stride: int = 1) -> Frames:
        """See `ClipSource.read`."""
        part, own = self._own(index)
        return part.read(own, start, count, stride)

    def checksum(self, index: int) -> int | None:
        """See `ClipSource.checksum`."""
        part, own = self._own(index)
        return part.checksum(own)

    def describe(self, index: int) -> str:
        """See `ClipSource.describe`."""
        part, own = self._own(index)
        return part.describe(own)

    def _own(self, index: int) -> tuple[ClipSource, int]:
        number = bisect_right(self._starts, index) - 1
        return self.parts[number], index - self._starts[number]
