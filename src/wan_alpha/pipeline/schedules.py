"""Noise levels of few-step sampling, given explicitly.

Four steps of two schedulers are not the same four noise levels (they differ in spacing, rounding and end point), and a
distilled model knows only those it was trained for.  So they are written down here and put into whichever scheduler
the pipeline has.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

DISTILLED_SHIFT = 5.0
DISTILLED_STEPS = 4


def shifted(levels: Sequence[float], shift: float) -> list[float]:
    """Timestep shift: s -> shift·s / (1 + (shift - 1)·s), for noise levels s in [0, 1]."""
    return [shift * s / (1 + (shift - 1) * s) for s in levels]


def distilled_sigmas(steps: int = DISTILLED_STEPS, shift: float = DISTILLED_SHIFT) -> list[float]:
    """The noise levels of LightX2V's distilled models: 1, 3/4, 1/2, 1/4 shifted by 5, so t = 1000, 937.5, 833, 625.

    Args:
        steps: 4, as distilled; others divide [0, 1] likewise.
        shift: 5, as distilled.
    """
    if steps < 1:
        raise ValueError(f"num_inference_steps={steps}: at least 1")
    return shifted([1 - step / steps for step in range(steps)], shift)


@contextmanager
def explicit_sigmas(scheduler: Any, sigmas: Sequence[float] | None) -> Iterator[None]:
    """Inside, `scheduler.set_timesteps` sets exactly these noise levels, ending at 0; None changes nothing.

    Args:
        scheduler: a flow-matching scheduler of diffusers with `sigmas` and `timesteps` (UniPC, Euler, LCM, DPM++).
        sigmas: falling, in (0, 1].

    Raises:
        ValueError: the levels are out of range or do not fall.
    """
    if sigmas is None:
        yield
        return
    if not sigmas or not all(0 < s <= 1 for s in sigmas) or any(a <= b for a, b in itertools.pairwise(sigmas)):
        raise ValueError(f"sigmas={list(sigmas)}: noise levels fall from at most 1 and stay above 0")
    original = scheduler.set_timesteps

    def set_timesteps(num_inference_steps: int | None = None, device: Any = None, **_: Any) -> None:
        original(len(sigmas), device=device)
        scheduler.sigmas = torch.tensor([*sigmas, 0.0], dtype=torch.float32)
        train_steps = scheduler.config.num_train_timesteps
        scheduler.timesteps = torch.tensor([s * train_steps for s in sigmas], device=device, dtype=torch.float32)
        scheduler.num_inference_steps = len(sigmas)

    scheduler.set_timesteps = set_timesteps
    try:
        yield
    finally:
        del scheduler.set_timesteps


@contextmanager
def flow_shift(scheduler: Any, shift: float | None) -> Iterator[None]:
    """Inside, the scheduler works with this timestep shift; None leaves the base's own."""
    key = next((k for k in ("flow_shift", "shift") if k in scheduler.config), None)
    if shift is None:
        yield
        return
    if key is None:
        raise ValueError(
            f"{type(scheduler).__name__} has no timestep shift; leave `shift` out or take another scheduler"
        )
    before = scheduler.config[key]
    _set_shift(scheduler, key, shift)
    try:
        yield
    finally:
        _set_shift(scheduler, key, before)


def _set_shift(scheduler: Any, key: str, shift: float) -> None:
    scheduler.register_to_config(**{key: shift})
    if hasattr(scheduler, "set_shift"):  # FlowMatchEuler keeps a copy outside its configuration
        scheduler.set_shift(shift)
