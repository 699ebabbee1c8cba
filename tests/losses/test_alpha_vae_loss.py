"""The RGBA VAE's loss as a whole: nine terms, their pictures, their weights, their gradients."""

import pytest
import torch
from torch import Tensor

from wan_alpha.losses import AlphaVAELoss, LossWeights
from wan_alpha.losses.edge import edge_loss
from wan_alpha.rendering import COLOURS, alpha_to_rgb, hard_render, soft_render

PIXELS = {"perceptual": 0.0, "edge": 0.0}  # l1 alone: no VGG, closed forms


def clips(seed: int = 0, batch: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    """rgb (batch, 3, 2, 8, 8), alpha with clear, translucent and opaque areas, canvas (batch, 3)."""
    generator = torch.Generator().manual_seed(seed)
    rgb = torch.rand(batch, 3, 2, 8, 8, generator=generator) * 2 - 1
    alpha = (torch.rand(batch, 1, 2, 8, 8, generator=generator) * 2 - 0.5).clamp(0, 1)
    return rgb, alpha, COLOURS[torch.randint(8, (batch,), generator=generator)]


@pytest.fixture(scope="module")
def loss() -> AlphaVAELoss:
    return AlphaVAELoss()


def test_the_paper_has_nine_terms_of_weight_one(loss):
    rgb, alpha, canvas = clips()
    pred_rgb, pred_alpha, _ = clips(1)
    total, terms = loss(pred_rgb, pred_alpha, rgb, alpha, canvas)
    pictures, kinds = ("alpha", "soft", "hard"), ("l1", "perceptual", "edge")
    assert list(terms) == [f"{p}/{k}" for p in pictures for k in kinds]
    assert all(term.shape == () and not term.requires_grad for term in terms.values())
    torch.testing.assert_close(total, sum(terms.values()))


def test_perfect_reconstruction_costs_nothing(loss):
    rgb, alpha, canvas = clips()
    total, _ = loss(rgb, alpha, rgb, alpha, canvas)
    assert total.item() == 0


def test_stacked_terms_equal_each_picture_compared_alone(loss):
    rgb, alpha, canvas = clips()
    pred_rgb, pred_alpha, _ = clips(1)
    _, terms = loss(pred_rgb, pred_alpha, rgb, alpha, canvas)
    mask = alpha > 0
    alone = {
        "alpha": (alpha_to_rgb(pred_alpha), alpha_to_rgb(alpha)),
        "soft": (soft_render(pred_rgb, pred_alpha, canvas), soft_render(rgb, alpha, canvas)),
        "hard": (hard_render(pred_rgb, alpha, canvas, mask), hard_render(rgb, alpha, canvas)),
    }
    for name, (pred, target) in alone.items():
        torch.testing.assert_close(terms[f"{name}/l1"], (pred - target).abs().mean())
        torch.testing.assert_close(terms[f"{name}/perceptual"], loss.perceptual(pred, target).mean())
        torch.testing.assert_close(terms[f"{name}/edge"], edge_loss(pred, target).mean())


def test_mse_is_one_more_kind_of_term_that_the_paper_does_not_have():
    rgb, alpha, canvas = clips()
    pred_rgb, pred_alpha, _ = clips(1)
    loss = AlphaVAELoss(weights={"l1": 0, "mse": 2.0, "soft": 0, "hard": 0} | PIXELS)
    total, terms = loss(pred_rgb, pred_alpha, rgb, alpha, canvas)
    assert list(terms) == ["alpha/mse"]
    squares = (alpha_to_rgb(pred_alpha) - alpha_to_rgb(alpha)).square().mean()
    torch.testing.assert_close(total, 2 * squares)


def test_vgg_sees_all_pictures_in_one_call(loss, monkeypatch):
    seen = []
    original = loss.perceptual.forward
    monkeypatch.setattr(loss.perceptual, "forward", lambda a, b, turn: seen.append((a.shape, turn)) or original(a, b))
    rgb, alpha, canvas = clips()
    loss(rgb, alpha, rgb, alpha, canvas, turn=7)
    assert seen == [((6, 3, 2, 8, 8), 7)]


def test_alpha_error_counts_in_the_picture_range():
    rgb, alpha, canvas = clips()
    _, terms = AlphaVAELoss(weights=PIXELS)(rgb, alpha + 0.1, rgb, alpha, canvas)
    torch.testing.assert_close(terms["alpha/l1"].item(), 0.2)  # [0, 1] is drawn as [-1, 1]
    assert terms["hard/l1"].item() == 0  # colour is right, and the mask is the target's


def test_prediction_mask_flips_pixels_on_noise_and_target_mask_does_not():
    rgb, canvas = torch.zeros(1, 3, 2, 8, 8), COLOURS[7:]
    alpha = torch.zeros(1, 1, 2, 8, 8)
    noise = 1e-4 * torch.randn(alpha.shape, generator=torch.Generator().manual_seed(0))
    noise[..., :2] = 0  # as the target is there
    terms = {
        mask: AlphaVAELoss(hard_mask=mask, weights=PIXELS)(rgb, noise, rgb, alpha, canvas)[1]["hard/l1"].item()
        for mask in ("target", "prediction")
    }
    assert terms["target"] == 0
    # grey against white costs 1 wherever noise is above zero
    assert terms["prediction"] == pytest.approx((noise > 0).float().mean().item())
    assert 0.2 < terms["prediction"] < 0.6


@pytest.mark.parametrize(
    ("render", "pictures"),
    [("none", ["alpha", "rgb"]), ("soft", ["alpha", "soft"]), ("soft_hard", ["alpha", "soft", "hard"])],
)
def test_the_ablation_compares_these_pictures(render, pictures):
    rgb, alpha, canvas = clips()
    _, terms = AlphaVAELoss(render=render, weights=PIXELS)(rgb + 0.1, alpha, rgb, alpha, canvas)
    assert list(terms) == [f"{name}/l1" for name in pictures]


def test_without_renders_colour_counts_where_nothing_is_visible():
    rgb, _, canvas = clips()
    clear = torch.zeros(2, 1, 2, 8, 8)
    _, plain = AlphaVAELoss(render="none", weights=PIXELS)(rgb + 0.25, clear, rgb, clear, canvas)
    _, renders = AlphaVAELoss(weights=PIXELS)(rgb + 0.25, clear, rgb, clear, canvas)
    torch.testing.assert_close(plain["rgb/l1"].item(), 0.25)
    assert renders["soft/l1"].item() == renders["hard/l1"].item() == 0


@pytest.mark.parametrize("form", [dict, lambda weights: LossWeights(**weights)])
def test_weights_multiply_and_zero_leaves_a_term_out(form):
    rgb, alpha, canvas = clips()
    pred_rgb, pred_alpha, _ = clips(1)
    weights = {"l1": 2.0, "perceptual": 0, "edge": 0.5, "alpha": 3.0, "soft": 0, "hard": 0.25}
    loss = AlphaVAELoss(weights=form(weights))
    total, terms = loss(pred_rgb, pred_alpha, rgb, alpha, canvas)
    assert list(terms) == ["alpha/l1", "alpha/edge", "hard/l1", "hard/edge"]
    assert loss.perceptual is None
    expected = 3 * (2 * terms["alpha/l1"] + 0.5 * terms["alpha/edge"]) + 0.25 * (
        2 * terms["hard/l1"] + 0.5 * terms["hard/edge"]
    )
    torch.testing.assert_close(total, expected)


def test_the_total_is_the_mean_of_samples_alone(loss):
    rgb, alpha, canvas = clips(batch=3)
    pred_rgb, pred_alpha, _ = clips(1, batch=3)
    mean, _ = loss(pred_rgb, pred_alpha, rgb, alpha, canvas)
    alone = [loss(*(x[i : i + 1] for x in (pred_rgb, pred_alpha, rgb, alpha, canvas)))[0] for i in range(3)]
    torch.testing.assert_close(mean, torch.stack(alone).mean())


def test_gradient_is_finite_on_constant_clips_and_reaches_colour_and_alpha(loss):
    rgb, alpha = torch.zeros(1, 3, 2, 8, 8), torch.full((1, 1, 2, 8, 8), 0.5)
    for offset in (0.0, 0.1):
        pred_rgb, pred_alpha = (rgb + offset).requires_grad_(), (alpha + offset).requires_grad_()
        loss(pred_rgb, pred_alpha, rgb, alpha, COLOURS[3])[0].backward()
        assert pred_rgb.grad.isfinite().all()
        assert pred_alpha.grad.isfinite().all()
    assert pred_rgb.grad.abs().sum() > 0
    assert pred_alpha.grad.abs().sum() > 0


def test_gradient_is_the_derivative_in_float64():
    loss = AlphaVAELoss(perceptual={"layers": ["relu1_2"], "distance": "mse"}).double()
    rgb, alpha, canvas = clips(batch=1)
    inputs = [x[:, :, :1, :4, :4].double().contiguous() for x in (*clips(1, batch=1)[:2], rgb, alpha)]
    pred_rgb, pred_alpha = inputs[0].requires_grad_(), inputs[1].requires_grad_()
    assert torch.autograd.gradcheck(
        lambda a, b: loss(a, b, *inputs[2:], canvas)[0], (pred_rgb, pred_alpha), fast_mode=True
    )


def test_half_precision_predictions_are_compared_in_float32():
    rgb, alpha, canvas = clips()
    pred_rgb, pred_alpha = rgb.bfloat16().requires_grad_(), alpha.bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        total, terms = AlphaVAELoss()(pred_rgb, pred_alpha, rgb, alpha, canvas)
    total.backward()
    assert total.dtype == torch.float32
    assert pred_rgb.grad.dtype == torch.bfloat16
    torch.testing.assert_close(terms["alpha/l1"], 2 * (alpha.bfloat16().float() - alpha).abs().mean())


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="render must be one of none, soft, soft_hard, got 'hard'"):
        AlphaVAELoss(render="hard")
    with pytest.raises(ValueError, match="hard_mask must be one of target, prediction, got 'both'"):
        AlphaVAELoss(hard_mask="both")
    with pytest.raises(ValueError, match="unknown loss weight 'egde'; known: l1, mse, perceptual, edge, alpha, soft"):
        AlphaVAELoss(weights={"egde": 1})
    with pytest.raises(ValueError, match="loss weight soft must be at least 0, got -1"):
        LossWeights(soft=-1)
    with pytest.raises(ValueError, match="loss weight l1 must be at least 0, got nan"):
        LossWeights(l1=float("nan"))
    with pytest.raises(ValueError, match="all of alpha, soft have weight 0"):
        AlphaVAELoss(render="soft", weights={"alpha": 0, "soft": 0})
    with pytest.raises(ValueError, match="all of l1, mse, perceptual, edge have weight 0"):
        AlphaVAELoss(weights={"l1": 0, "perceptual": 0, "edge": 0})
