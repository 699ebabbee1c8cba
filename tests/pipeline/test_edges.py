"""Clean-up does what it says, leaves what is visible alone, and removes the fringe that it is for."""

from __future__ import annotations

import pytest
import torch
from sample_video import disc
from torch import Tensor
from torch.nn import functional as F

from wan_alpha.pipeline.edges import bleed_colour, clean_alpha


def test_clean_alpha_is_really_zero_and_one_and_steady() -> None:
    alpha = torch.linspace(0, 1, 1001).view(1, 1, 1, 1, -1)
    cleaned = clean_alpha(alpha, 0.02)
    assert (cleaned[alpha <= 0.02] == 0).all()
    assert (cleaned[alpha >= 0.98] == 1).all()
    steps = cleaned.diff(dim=-1)
    assert steps.min() >= 0
    assert steps.max() < 0.0011
    assert (cleaned - alpha).abs().max() <= 0.0201
    assert torch.equal(clean_alpha(alpha, 0.0), alpha)
    with pytest.raises(ValueError, match=r"threshold=0\.5"):
        clean_alpha(alpha, 0.5)


def test_bleed_leaves_the_visible_alone_and_spreads_its_colour() -> None:
    video = disc()
    bled = bleed_colour(video.rgb, video.alpha, 6)
    seen = (video.alpha >= 1 / 255).expand_as(video.rgb)
    assert torch.equal(bled[seen], video.rgb[seen])
    assert torch.equal(bleed_colour(video.rgb, video.alpha, 0), video.rgb)
    # The hidden blue (-0.8, -0.8, 0.2) is gone: everything is near the disc's own colours (blue = -0.6).
    assert (bled[:, 2] + 0.6).abs().max() < 1e-5
    empty = torch.zeros_like(video.alpha)
    assert torch.equal(bleed_colour(video.rgb, empty, 3), video.rgb)
    with pytest.raises(ValueError, match="at least 0"):
        bleed_colour(video.rgb, video.alpha, -1)


def halved(x: Tensor) -> Tensor:
    return F.avg_pool2d(x.transpose(1, 2).flatten(0, 1), 2)


def test_bleed_removes_the_fringe_of_straight_resampling() -> None:
    """An editor that scales straight colour and alpha apart shows the hidden colour at the edge."""
    video = disc()
    alpha = halved(video.alpha)
    truth = halved(video.rgb.add(1) * video.alpha)  # premultiplied: what is right

    def error(rgb: Tensor) -> float:
        return float((halved(rgb.add(1)) * alpha - truth).abs().max())

    before, after = error(video.rgb), error(video.cleaned(0.0, 4).rgb)
    assert before > 0.05
    assert after < before / 4
