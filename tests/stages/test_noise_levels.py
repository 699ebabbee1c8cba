"""The loss by noise level: means of each quarter, over what came since the last row."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from wan_alpha.stages.noise_levels import NoiseLevels


def logged(levels: NoiseLevels, step: int, due: bool = True) -> list[tuple[dict[str, float], int]]:
    """What a logger gets when step number `step` has been taken."""
    rows: list[tuple[dict[str, float], int]] = []
    logger = SimpleNamespace(log_metrics=lambda values, step: rows.append((values, step)))
    module: Any = SimpleNamespace(
        row_is_due=due, global_step=step - 1, trainer=SimpleNamespace(world_size=1, loggers=[logger])
    )
    levels.log(module)
    return rows


def test_each_quarter_has_its_mean_and_empty_ones_none() -> None:
    levels = NoiseLevels()
    levels.add(torch.tensor([0.0, 0.2499, 0.25]), torch.tensor([1.0, 3.0, 5.0]))
    assert logged(levels, 4, due=False) == []
    levels.add(torch.tensor([0.3, 1.0]), torch.tensor([8.0, 7.0], dtype=torch.bfloat16))
    means = {"train/loss_t0-0.25": 2.0, "train/loss_t0.25-0.5": 6.5, "train/loss_t0.75-1": 7.0}
    assert logged(levels, 5) == [(pytest.approx(means), 5)]
    levels.add(torch.tensor([0.6]), torch.tensor([2.0]))  # the next row begins anew
    assert logged(levels, 6) == [({"train/loss_t0.5-0.75": 2.0}, 6)]


def test_a_row_goes_on_from_a_checkpoint() -> None:
    before, whole = NoiseLevels(), NoiseLevels()
    for levels in (before, whole):
        levels.add(torch.tensor([0.1, 0.9]), torch.tensor([1.0, 2.0]))
    ranks = [NoiseLevels(), NoiseLevels()]
    state = before.state(1)
    for rank, levels in enumerate(ranks):
        levels.restore(state.clone(), rank)
    assert torch.equal(sum(levels.sums for levels in ranks), whole.sums)
    before.add(torch.tensor([0.1]), torch.tensor([9.0]))
    assert torch.equal(state, whole.sums)  # what was saved does not change afterwards
