"""Figures of known errors, per clip and averaged, and the tables they are printed in."""

import io

import pytest
import torch
from rich.console import Console
from torch import Tensor

from wan_alpha.evaluation.lpips import LPIPS
from wan_alpha.evaluation.metrics import PSNR_LIMIT, RGBAMetrics, psnr, ssim
from wan_alpha.evaluation.tables import comparison_table, markdown_table
from wan_alpha.rendering import COLOURS


def clips(batch: int = 2, size: int = 16) -> tuple[Tensor, Tensor, Tensor]:
    """rgb, alpha (clear on the left, translucent in the middle, opaque on the right), canvas."""
    generator = torch.Generator().manual_seed(0)
    rgb = torch.rand(batch, 3, 2, size, size, generator=generator) - 0.5
    alpha = torch.linspace(-0.5, 1.5, size).clamp(0, 1).expand(batch, 1, 2, size, size)
    return rgb, alpha, COLOURS[torch.arange(batch) + 3]


def test_psnr_of_a_known_mean_square_error():
    target = torch.full((3, 3, 4, 4), 0.5)
    assert psnr(target + 0.1, target).item() == pytest.approx(20, abs=1e-4)
    target[0] += 0.1  # one frame of three is right: the error is taken over the clip, not frame by frame
    assert psnr(torch.full_like(target, 0.6), target).item() == pytest.approx(20 + 1.7609, abs=1e-3)


def test_psnr_of_equal_clips_is_the_limit_and_not_infinite():
    target = torch.rand(2, 3, 4, 4)
    assert psnr(target, target).item() == PSNR_LIMIT


def test_ssim_is_one_at_identity_and_the_luminance_term_for_flat_pictures():
    target = torch.rand(20, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    assert ssim(target, target).item() == pytest.approx(1)
    # Two flat pictures have no contrast nor structure: (2·a·b + c1) / (a² + b² + c1), c1 = 0.01²
    a, b = 0.2, 0.6
    flat = ssim(*(torch.full((1, 3, 16, 16), value, dtype=torch.float64) for value in (a, b))).item()
    assert flat == pytest.approx((2 * a * b + 1e-4) / (a * a + b * b + 1e-4))


def test_ssim_in_chunks_is_the_mean_over_frames():
    generator = torch.Generator().manual_seed(0)
    a, b = torch.rand(19, 3, 12, 12, generator=generator), torch.rand(19, 3, 12, 12, generator=generator)
    alone = torch.stack([ssim(a[t : t + 1], b[t : t + 1]) for t in range(19)])
    torch.testing.assert_close(ssim(a, b), alone.mean())


def test_known_colour_and_alpha_offsets_per_picture():
    rgb, alpha, canvas = clips(1)
    opaque = torch.ones_like(alpha)
    metrics = RGBAMetrics()
    metrics.update(rgb + 0.2, opaque - 0.1, rgb, opaque, canvas)
    values = metrics.compute()
    assert list(values) == ["alpha/psnr", "alpha/ssim", "soft/psnr", "soft/ssim", "hard/psnr", "hard/ssim"]
    assert values["alpha/psnr"] == pytest.approx(20, abs=1e-3)
    assert values["hard/psnr"] == pytest.approx(20, abs=1e-3)  # 0.2 in [-1, 1] is 0.1 in [0, 1]
    assert values["soft/psnr"] != pytest.approx(20, abs=0.1)


def test_hard_render_is_cut_by_the_target_and_predictions_are_clamped():
    rgb, alpha, canvas = clips(1)
    saturated = rgb.sign()
    metrics = RGBAMetrics()
    noise = torch.where(alpha == 0, 1e-6, 0.0)
    metrics.update(saturated * 1.5, alpha + noise, saturated, alpha, canvas)
    assert metrics.compute()["hard/psnr"] == PSNR_LIMIT


def test_colour_under_clear_pixels_does_not_count():
    rgb, alpha, canvas = clips()
    metrics = RGBAMetrics()
    metrics.update(torch.where(alpha > 0, rgb, -rgb), alpha, rgb, alpha, canvas)
    assert metrics.compute()["soft/psnr"] == metrics.compute()["hard/psnr"] == PSNR_LIMIT


def test_mean_is_over_clips_and_the_worst_can_be_named():
    rgb, alpha, canvas = (x[:, :, :1] if x.dim() == 5 else x for x in clips(3))
    damage = torch.tensor([0.02, 0.2, 0.06]).reshape(3, 1, 1, 1, 1)
    metrics = RGBAMetrics(LPIPS())
    noise = torch.randn(rgb.shape, generator=torch.Generator().manual_seed(0))
    metrics.update(rgb[:2] + (damage * noise)[:2], alpha[:2], rgb[:2], alpha[:2], canvas[:2], ["good", "bad"])
    metrics.update(rgb[2:] + (damage * noise)[2:], alpha[2:], rgb[2:], alpha[2:], canvas[2:], ["fair"])
    assert set(metrics.per_clip) == {"good", "bad", "fair"}
    values = metrics.compute()
    for name in ("hard/psnr", "soft/ssim", "soft/lpips3"):
        assert values[name] == pytest.approx(sum(clip[name] for clip in metrics.per_clip.values()) / 3)
        assert [key for key, _ in metrics.worst(name)] == ["bad", "fair", "good"]
    assert metrics.worst("hard/psnr", 1) == [("bad", metrics.per_clip["bad"]["hard/psnr"])]


def test_batches_equal_clips_alone():
    rgb, alpha, canvas = clips(2)
    pred = rgb + 0.1 * torch.randn(rgb.shape, generator=torch.Generator().manual_seed(0))
    together, alone = RGBAMetrics(), RGBAMetrics()
    together.update(pred, alpha, rgb, alpha, canvas)
    for i in range(2):
        alone.update(*(x[i : i + 1] for x in (pred, alpha, rgb, alpha, canvas)))
    assert list(together.per_clip) == list(alone.per_clip) == ["clip-0000", "clip-0001"]
    for key, figures in together.per_clip.items():
        assert figures == pytest.approx(alone.per_clip[key])


def test_a_returning_key_is_numbered_and_another_process_adds_only_what_is_new():
    rgb, alpha, canvas = clips(2)
    metrics, other = RGBAMetrics(), RGBAMetrics()
    metrics.update(rgb, alpha, rgb, alpha, canvas, ["a", "a"])
    assert list(metrics.per_clip) == ["a", "a#2"]
    other.update(rgb + 0.5, alpha, rgb, alpha, canvas, ["a", "b"])
    before = dict(metrics.per_clip["a"])
    metrics.merge(other.per_clip)
    assert list(metrics.per_clip) == ["a", "a#2", "b"]
    assert metrics.per_clip["a"] == before


def test_mistakes_are_named_and_nothing_measured_is_an_empty_table():
    rgb, alpha, canvas = clips(2)
    metrics = RGBAMetrics()
    assert metrics.compute() == {}
    with pytest.raises(ValueError, match="1 keys for a batch of 2 clips"):
        metrics.update(rgb, alpha, rgb, alpha, canvas, ["a"])
    metrics.update(rgb, alpha, rgb, alpha, canvas)
    with pytest.raises(ValueError, match="no figure 'psnr'; measured: alpha/psnr, "):
        metrics.worst("psnr")


ROWS = {
    "ours": {
        f"{picture}/{metric}": value
        for picture in ("alpha", "soft", "hard")
        for metric, value in (("psnr", 31.416), ("ssim", 0.98765), ("lpips3", 0.0432))
    },
    "ceiling: two latents": {"alpha/psnr": 33.0},
}


def test_terminal_table_fits_80_columns_and_shows_every_figure():
    console = Console(file=io.StringIO(), width=80)
    console.print(comparison_table(ROWS, title="held-out concepts"))
    text = console.file.getvalue()
    assert "…" not in text
    assert text.count("31.42") == text.count("0.988") == text.count("0.043") == 3
    assert "ceiling: two latents" in text
    assert "LPIPS3" in text
    assert text.count("–") == 8


def test_markdown_table_is_exact():
    rows = {"ours": {"alpha/psnr": 30.0, "alpha/lpips": 0.1}, "floor": {"alpha/psnr": 3.004}}
    assert markdown_table(rows) == (
        "|  | alpha PSNR ↑ | alpha LPIPS ↓ |\n| --- | ---: | ---: |\n| ours | 30.00 | 0.100 |\n| floor | 3.00 | – |\n"
    )
