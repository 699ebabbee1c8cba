"""The learning rate's schedule, in closed form."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from wan_alpha.stages.optim import Schedule, adamw


def test_up_flat_down() -> None:
    schedule = Schedule(10, warmup_steps=3, decay_share=0.4)
    shares = [schedule(step) for step in range(11)]
    assert shares == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1, 1, 0.75, 0.5, 0.25, 0])


def test_without_decay_it_stays_up() -> None:
    assert [Schedule(5)(step) for step in range(9)] == [1] * 9


@given(steps=st.integers(1, 10**5), warmup=st.integers(0, 100), decay=st.floats(0, 1), step=st.integers(0, 2 * 10**5))
def test_always_a_share_and_never_a_wasted_first_step(steps: int, warmup: int, decay: float, step: int) -> None:
    schedule = Schedule(steps, warmup, decay)
    assert 0 <= schedule(step) <= 1
    assert schedule(0) > 0


def test_the_optimiser_follows_the_schedule_and_the_configuration() -> None:
    weight = torch.nn.Parameter(torch.ones(1))
    made = adamw([weight], Schedule(4, warmup_steps=1), lr=0.5, betas=(0.8, 0.9), weight_decay=0.1)
    optimizer, scheduler = made["optimizer"], made["lr_scheduler"]["scheduler"]  # type: ignore[index,call-overload]
    group = optimizer.param_groups[0]
    assert (group["betas"], group["weight_decay"]) == ((0.8, 0.9), 0.1)
    rates = []
    for _ in range(3):
        rates.append(group["lr"])
        optimizer.step()
        scheduler.step()
    assert rates == [0.25, 0.5, 0.5]
    assert made["lr_scheduler"]["interval"] == "step"  # type: ignore[index,call-overload]
