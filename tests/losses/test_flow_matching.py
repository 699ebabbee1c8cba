"""Rectified flow against its definition, and the noise levels against their closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from wan_alpha.losses.draws import draw
from wan_alpha.losses.flow_matching import flow_matching_loss, interpolate, velocity
from wan_alpha.losses.timesteps import TimestepError, Timesteps, bell_weight, check_timesteps, shift_timesteps


def test_the_path_runs_from_data_to_noise_at_the_velocity() -> None:
    z, noise = torch.randn(3, 4, 2, 2, 2).double(), torch.randn(3, 4, 2, 2, 2).double()
    t = torch.tensor([0.2, 0.5, 0.9]).double()
    assert torch.equal(interpolate(z, noise, torch.zeros(3)), z)
    assert torch.equal(interpolate(z, noise, torch.ones(3)), noise)
    step = 1e-3
    derivative = (interpolate(z, noise, t + step) - interpolate(z, noise, t)) / step
    torch.testing.assert_close(derivative, velocity(z, noise))
    torch.testing.assert_close(interpolate(z, noise, t)[1], (z[1] + noise[1]) / 2)


def test_the_loss_is_a_mean_per_sample() -> None:
    target = torch.zeros(2, 3, 1, 2, 2)
    predicted = torch.stack([torch.full((3, 1, 2, 2), 2.0), torch.full((3, 1, 2, 2), -1.0)])
    assert flow_matching_loss(predicted, target).tolist() == [4.0, 1.0]
    assert flow_matching_loss(predicted.bfloat16(), target).dtype == torch.float32


def test_shapes_that_do_not_fit_are_refused() -> None:
    z = torch.zeros(2, 4, 1, 2, 2)
    with pytest.raises(ValueError, match="one t per sample"):
        interpolate(z, z, torch.zeros(3))
    with pytest.raises(ValueError, match="one t per sample"):
        interpolate(z, z[:, :3], torch.zeros(2))
    with pytest.raises(ValueError, match="its target"):  # would broadcast
        flow_matching_loss(z, z[:, :1])


def test_shifting_is_the_scheduler_s() -> None:
    from wan_alpha.models.dit import new_scheduler

    scheduler = new_scheduler(5.0)
    scheduler.set_timesteps(8)
    plain = torch.linspace(1, 0.001, 9)[:-1]
    torch.testing.assert_close(scheduler.sigmas[:-1].float()[1:], shift_timesteps(plain, 5.0)[1:], atol=2e-3, rtol=0)


def test_logit_normal_has_the_density_it_is_named_for() -> None:
    u = (torch.arange(20000) + 0.5) / 20000
    t = Timesteps("logit_normal", mean=0.5, std=0.8).sample(u)
    logits = torch.logit(t.double())
    assert logits.mean().item() == pytest.approx(0.5, abs=1e-2)
    assert logits.std().item() == pytest.approx(0.8, abs=1e-2)
    assert Timesteps("uniform").sample(u).mean().item() == pytest.approx(0.5, abs=1e-3)
    median, upper = Timesteps("logit_normal").sample(torch.tensor([0.5, 0.8413447])).tolist()  # one σ above
    assert (median, upper) == pytest.approx((0.5, 1 / (1 + math.exp(-1))))


@pytest.mark.parametrize("kind", ["uniform", "logit_normal"])
@pytest.mark.parametrize("part", [(0.9, 1.0), (0.0, 0.875), (0.3, 0.4)])
def test_a_range_is_the_part_of_the_distribution_that_lies_in_it(kind: str, part: tuple[float, float]) -> None:
    u = (torch.arange(20000) + 0.5) / 20000
    whole = Timesteps(kind, shift=5.0, mean=0.4).sample(u)  # type: ignore[arg-type]
    cut = Timesteps(kind, shift=5.0, mean=0.4, range=part).sample(u)  # type: ignore[arg-type]
    inside = whole[(whole >= part[0]) & (whole <= part[1])]
    assert cut.min() >= part[0] - 1e-6
    assert cut.max() <= part[1] + 1e-6
    for share in (0.1, 0.5, 0.9):
        assert cut.quantile(share).item() == pytest.approx(inside.quantile(share).item(), abs=2e-3)


@pytest.mark.parametrize("wrong", [(0.5, 0.5), (0.9, 0.1), (-0.1, 1.0), (0.0, 1.1), (math.nan, 1.0)])
def test_a_range_without_noise_levels_is_refused(wrong: tuple[float, float]) -> None:
    with pytest.raises(TimestepError, match="two noise levels with 0 <= low < high <= 1"):
        Timesteps(range=wrong)


@given(u=st.floats(0, 1), shift=st.floats(0.05, 20), kind=st.sampled_from(["uniform", "logit_normal"]))
def test_noise_levels_stay_inside(u: float, shift: float, kind: str) -> None:
    check_timesteps(Timesteps(kind, shift=shift).sample(torch.tensor([u])))  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", [0.0, 1.0, -0.1, 1.5, math.nan])
def test_noise_levels_outside_are_refused(bad: float) -> None:
    with pytest.raises(TimestepError, match=r"must lie in \(0, 1\)"):
        check_timesteps(torch.tensor([0.5, bad]))


@pytest.mark.parametrize(
    "wrong", [{"shift": 0.0}, {"shift": -1.0}, {"std": 0.0}, {"std": math.inf}, {"mean": math.inf}]
)
def test_settings_that_give_no_noise_levels_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(TimestepError, match="positive and finite"):
        Timesteps("logit_normal", **wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("shift", [1.0, 5.0])
def test_the_bell_weight_is_the_authors(shift: float) -> None:
    """Least value 0, mean 1 over the 1000 steps, highest in the middle."""
    steps = shift_timesteps(torch.arange(1000, 0, -1).double() / 1000, shift)
    weight = bell_weight(steps, shift)
    assert weight.mean().item() == pytest.approx(1)
    assert weight.min().item() == 0
    assert steps[weight.argmax()].item() == pytest.approx(0.5, abs=5e-3)
    by_hand = torch.exp(-2 * ((steps * 1000 - 500) / 1000) ** 2)
    by_hand = (by_hand - by_hand.min()) * 1000 / (by_hand - by_hand.min()).sum()
    torch.testing.assert_close(weight, by_hand)
    assert Timesteps(shift=shift, weighting="bell").weight(torch.tensor([0.5])).item() > 1
    assert Timesteps(shift=shift).weight(torch.tensor([0.1, 0.5])).tolist() == [1, 1]


def test_draws_belong_to_the_sample_not_to_the_batch() -> None:
    together, alone = draw(1, torch.tensor([5, 6, 7]), (2, 1, 3, 3)), draw(1, torch.tensor([6]), (2, 1, 3, 3))
    for a, b in zip(together, alone, strict=True):
        assert torch.equal(a[1:2], b)
    assert not torch.equal(together.noise[0], together.noise[1])
    assert not torch.equal(together.noise, draw(2, torch.tensor([5, 6, 7]), (2, 1, 3, 3)).noise)
    many = draw(0, torch.arange(200), (4, 1, 4, 4))
    assert many.noise.std().item() == pytest.approx(1, abs=0.03)
    assert many.u.mean().item() == pytest.approx(0.5, abs=0.07)
    assert all(x.dtype == torch.float32 for x in many)
    # whether a caption is dropped tells nothing of the noise level
    assert torch.corrcoef(torch.stack([many.u, many.drop]))[0, 1].abs() < 0.2


def test_a_run_that_is_repeated_draws_the_same() -> None:
    u, drop, noise = draw(3, torch.tensor([11]), (1, 1, 1, 2))
    rng = np.random.default_rng((3, 11, 3))  # seed, sample, stream
    assert torch.equal(torch.cat([u, drop]), torch.from_numpy(rng.random(2)).float())
    assert torch.equal(noise.flatten(), torch.from_numpy(rng.standard_normal(2, dtype=np.float32)))
