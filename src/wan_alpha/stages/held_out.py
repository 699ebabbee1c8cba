"""Figures of held-out clips, whichever rank has measured them."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def from_all_ranks(value: Any, ranks: int) -> list[Any]:
    """What each rank has: objects of the host's memory.  All ranks must call this together."""
    found = [value] * ranks
    if ranks > 1:
        dist.all_gather_object(found, value)
    return found


class HeldOut:
    """Figures of each held-out clip, and their means over the clips of all ranks.

    The means do not depend on how clips are cut into batches and ranks, nor on a clip that two ranks have measured so
    that each has as many.
    """

    def __init__(self) -> None:
        self.measured: list[tuple[list[int], Tensor]] = []

    def add(self, batch: dict[str, Any], figures: Tensor) -> None:
        """Figures (B, F) of a batch, left on their device; of clips that could not be read they are left out."""
        read = [n for n, problem in enumerate(batch.get("problem", [""] * len(figures))) if not problem]
        clips = batch["index"].tolist()
        self.measured.append(([clips[n] for n in read], figures if len(read) == len(figures) else figures[read]))

    def means(self, ranks: int) -> Tensor | None:
        """(F,) in float64 on the CPU, over all clips since the last call; None if none could be read."""
        own = {clip: row for clips, rows in self.measured for clip, row in zip(clips, rows.double().cpu(), strict=True)}
        self.measured = []
        every = {clip: row for share in from_all_ranks(own, ranks) for clip, row in share.items()}
        return torch.stack([every[clip] for clip in sorted(every)]).mean(0) if every else None
