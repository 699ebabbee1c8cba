"""Which noise levels training sees, and how much each counts.

Everything here maps numbers to numbers: a sample's uniform draw u in (0, 1) to its noise level t in (0, 1).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

TimestepKind = Literal["uniform", "logit_normal"]
Weighting = Literal["none", "bell"]

NUM_TRAIN_TIMESTEPS = 1000
"""Wan's transformers take t·1000."""


class TimestepError(ValueError):
    """A noise level outside (0, 1), or settings that would give one."""


def shift_timesteps(t: Tensor, shift: float) -> Tensor:
    """t -> s·t / (1 + (s - 1)·t): more noise for s > 1, as the base's scheduler does (Esser et al. 2024, eq. 23)."""
    return shift * t / (1 + (shift - 1) * t)


def logit_normal(u: Tensor, mean: float, std: float) -> Tensor:
    """Uniform draws to t = sigmoid(mean + std·Φ⁻¹(u)) (Esser et al. 2024, section 3.1)."""
    return torch.sigmoid(mean + std * torch.special.ndtri(u))


def bell_weight(t: Tensor, shift: float) -> Tensor:
    """The authors' weight exp(-2 (t - 1/2)²) - its least value, scaled to mean 1 over the 1000 shifted steps."""
    grid = shift_timesteps(torch.arange(NUM_TRAIN_TIMESTEPS, 0, -1, dtype=torch.float64) / NUM_TRAIN_TIMESTEPS, shift)
    over_grid = torch.exp(-2 * (grid - 0.5).square())
    raw = torch.exp(-2 * (t.double() - 0.5).square())
    return ((raw - over_grid.min()).clamp(min=0) / (over_grid - over_grid.min()).mean()).to(t.dtype)


def check_timesteps(t: Tensor) -> None:
    """Raise TimestepError unless every t lies in (0, 1); NaN does not."""
    if not bool(((t > 0) & (t < 1)).all()):
        raise TimestepError(
            f"noise levels must lie in (0, 1), 0 being data and 1 noise; got {t.flatten().tolist()[:8]}"
        )


@dataclass(frozen=True)
class Timesteps:
    """The distribution of t in training.

    Attributes:
        kind: `uniform`, or `logit_normal`, which prefers the middle.
        shift: applied to what `kind` draws; 1 leaves it.
        mean, std: of the normal under `logit_normal`.
        weighting: `none`, or the authors' `bell`.
        range: only t in [low, high] are drawn, in the proportions that the others leave them: the part of a base's
            expert, such as Wan2.2's for high noise.
    """

    kind: TimestepKind = "uniform"
    shift: float = 1.0
    mean: float = 0.0
    std: float = 1.0
    weighting: Weighting = "none"
    range: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        low, high = self.range
        if not 0 <= low < high <= 1:
            raise TimestepError(f"range={[low, high]}: expected two noise levels with 0 <= low < high <= 1")
        if not (self.shift > 0 and self.std > 0 and all(map(math.isfinite, (self.shift, self.std, self.mean)))):
            raise TimestepError(f"shift and std must be positive and finite, got shift={self.shift}, std={self.std}")

    def sample(self, u: Tensor) -> Tensor:
        """Uniform draws (B,) in [0, 1) -> t (B,) in (0, 1)."""
        tiny = 1e-5  # the ends are no noise levels: nothing is learned from pure data
        low, high = self.range
        first, last = self._share_below(low), self._share_below(high)
        u = first + u.double() * (last - first)
        t = u if self.kind == "uniform" else logit_normal(u, self.mean, self.std)
        return shift_timesteps(t, self.shift).clamp(max(low, tiny), min(high, 1 - tiny)).float()

    def _share_below(self, t: float) -> float:
        """Which share of the whole distribution lies below t: the inverse of `sample` without a range."""
        u = torch.tensor(t / (self.shift - (self.shift - 1) * t), dtype=torch.float64)
        return float(u if self.kind == "uniform" else torch.special.ndtr((torch.logit(u) - self.mean) / self.std))

    def weight(self, t: Tensor) -> Tensor:
        """How much a sample at t counts, (B,)."""
        return bell_weight(t, self.shift) if self.weighting == "bell" else torch.ones_like(t)
