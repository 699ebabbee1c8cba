"""Single loss terms: L1, edges and perception, each against a closed form or a reference in numpy."""

import numpy as np
import pytest
import torch
from kornia.filters import sobel
from torch import Tensor
from torch.nn import functional as F

from wan_alpha.losses.edge import EPS, edge_loss, edge_magnitude
from wan_alpha.losses.perceptual import PerceptualLoss
from wan_alpha.losses.reconstruction import l1, mse, sample_mean


def ramp(slope: float, axis: int = -1) -> Tensor:
    """(1, 3, 2, 6, 9), rising along `axis` by `slope` per pixel."""
    shape = [1, 1, 1, 1, 1]
    length = {-1: 9, -2: 6}[axis]
    shape[axis] = length
    return (torch.arange(length, dtype=torch.float64) * slope).reshape(shape).expand(1, 3, 2, 6, 9)


def picture(seed: int = 0, size: int = 16, frames: int = 2, batch: int = 1) -> Tensor:
    """Smooth random pictures, (batch, 3, frames, size, size) in [-1, 1]."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(batch * frames, 3, size // 4, size // 4, generator=generator) * 2 - 1
    smooth = F.interpolate(coarse, (size, size), mode="bilinear")
    return smooth.unflatten(0, (batch, frames)).transpose(1, 2)


def blurred(clip: Tensor, passes: int) -> Tensor:
    frames = clip.transpose(1, 2).flatten(0, 1)
    for _ in range(passes):
        frames = F.avg_pool2d(F.pad(frames, (1, 1, 1, 1), mode="replicate"), 3, 1)
    return frames.unflatten(0, (clip.shape[0], clip.shape[2])).transpose(1, 2)


# --- L1 -------------------------------------------------------------------------------------------------------------


def test_l1_of_a_known_offset_per_sample():
    target = torch.zeros(2, 3, 1, 4, 4)
    pred = target + torch.tensor([0.25, -0.5]).reshape(2, 1, 1, 1, 1)
    assert l1(pred, target).tolist() == [0.25, 0.5]


def test_mse_of_a_known_offset_per_sample():
    pred, target = torch.zeros(2, 3, 1, 4, 4), torch.full((2, 3, 1, 4, 4), 0.5)
    pred[1] = -0.5
    assert mse(pred, target).tolist() == [0.25, 1.0]


def test_l1_refuses_to_broadcast():
    with pytest.raises(ValueError, match=r"\(1, 1, 1, 4, 4\) and target \(1, 3, 1, 4, 4\) differ"):
        l1(torch.zeros(1, 1, 1, 4, 4), torch.zeros(1, 3, 1, 4, 4))


def test_means_of_half_precision_are_summed_in_float32():
    values = torch.full((1, 40_000), 0.1, dtype=torch.bfloat16)
    assert sample_mean(values).dtype == torch.float32
    torch.testing.assert_close(sample_mean(values).item(), values[0, 0].item(), rtol=1e-5, atol=0)
    assert sample_mean(values.double()).dtype == torch.float64


# --- edges ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [-1, -2])
def test_sobel_of_a_ramp_is_its_slope(axis):
    edges = edge_magnitude(ramp(-0.2, axis))
    assert edges.shape == (1, 3, 2, 6, 9)
    inside = edges[..., 1:-1, 1:-1]
    torch.testing.assert_close(inside, torch.full_like(inside, (0.2**2 + EPS) ** 0.5))


def test_sobel_and_its_gradient_equal_kornia():
    clip = picture(size=8, batch=2).double().requires_grad_()
    edges = edge_magnitude(clip)
    frames = sobel(clip.transpose(1, 2).flatten(0, 1), eps=EPS).unflatten(0, (2, 2)).transpose(1, 2)
    torch.testing.assert_close(edges, frames, rtol=1e-12, atol=1e-12)
    weights = torch.rand(edges.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    ours, reference = (torch.autograd.grad((x * weights).sum(), clip)[0] for x in (edges, frames))
    torch.testing.assert_close(ours, reference, rtol=1e-10, atol=1e-12)


def test_central_differences_equal_numpy():
    clip = picture(size=8).double()
    edges = edge_magnitude(clip, "central")
    assert edges.shape == (1, 1, 2, 8, 8)
    for t in range(2):
        grey = np.tensordot(np.array([65.738, 129.057, 25.064]) / 256, clip[0, :, t].numpy(), 1)
        padded = np.pad(grey, 1)
        # numpy's gradient halves the central difference
        vertical, horizontal = (2 * g[1:-1, 1:-1] for g in np.gradient(padded))
        np.testing.assert_allclose(edges[0, 0, t], np.sqrt(vertical**2 + horizontal**2 + 1e-6), rtol=1e-10)


def test_frames_and_samples_do_not_mix():
    clips = picture(batch=2, frames=3)
    together = edge_magnitude(clips)
    for b in range(2):
        for t in range(3):
            alone = edge_magnitude(clips[b : b + 1, :, t : t + 1])
            torch.testing.assert_close(together[b : b + 1, :, t : t + 1], alone)


def test_edge_loss_ignores_a_constant_and_sees_a_blur():
    clip = picture()
    torch.testing.assert_close(edge_loss(clip + 0.3, clip), torch.zeros(1), atol=1e-6, rtol=0)
    assert edge_loss(blurred(clip, 2), clip) > edge_loss(blurred(clip, 1), clip) > 1e-3


@pytest.mark.parametrize("kind", ["sobel", "central"])
def test_edge_gradient_is_finite_on_flat_pictures(kind):
    pred = torch.zeros(1, 3, 1, 8, 8, requires_grad=True)
    edge_loss(pred, picture(frames=1, size=8), kind).sum().backward()
    assert pred.grad.isfinite().all()


def test_edges_keep_float32_under_autocast():
    clip = picture()
    with torch.autocast("cpu", torch.bfloat16):
        mixed = edge_magnitude(clip)
    assert torch.equal(mixed, edge_magnitude(clip))


def test_edges_refuse_unknown_kinds_and_single_pictures():
    with pytest.raises(ValueError, match="unknown edge kind 'canny'; known: sobel, central"):
        edge_magnitude(picture(), "canny")
    with pytest.raises(ValueError, match=r"expected pictures \(B, C, T, H, W\), got \(3, 2, 16, 16\)"):
        edge_magnitude(picture()[0])


# --- perception -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def perceptual() -> PerceptualLoss:
    return PerceptualLoss()


def test_perceptual_loss_is_zero_at_identity_and_grows_with_damage(perceptual):
    clip = picture(frames=1)
    noise = torch.randn(clip.shape, generator=torch.Generator().manual_seed(1))
    assert perceptual(clip, clip).item() == 0
    blurs = [perceptual(blurred(clip, passes), clip).item() for passes in (1, 2, 4)]
    noises = [perceptual(clip + sigma * noise, clip).item() for sigma in (0.02, 0.05, 0.1)]
    assert 0 < blurs[0] < blurs[1] < blurs[2]
    assert 0 < noises[0] < noises[1] < noises[2]


def test_perception_forgives_a_brightness_shift_more_than_noise_of_equal_l1(perceptual):
    clip = picture(frames=1) * 0.5
    noise = torch.randn(clip.shape, generator=torch.Generator().manual_seed(1))
    noise = noise / noise.abs().mean() * 0.05
    assert perceptual(clip + noise, clip).item() > 2 * perceptual(clip + 0.05, clip).item()


def test_stacked_pairs_equal_separate_calls(perceptual):
    pred, target = picture(1, batch=3), picture(2, batch=3)
    stacked = perceptual(pred, target)
    assert stacked.shape == (3,)
    alone = torch.cat([perceptual(pred[i : i + 1], target[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(stacked, alone)


def test_every_second_frame_in_turn_sees_them_all(perceptual, monkeypatch):
    pred, target = picture(1, frames=5), picture(2, frames=5)
    each = [perceptual(pred[:, :, t : t + 1], target[:, :, t : t + 1]) for t in range(5)]
    monkeypatch.setattr(perceptual, "every", 2)
    for turn, frames in ((0, (0, 2, 4)), (1, (1, 3)), (2, (0, 2, 4))):
        torch.testing.assert_close(perceptual(pred, target, turn), torch.stack([each[t] for t in frames]).mean(0))
    monkeypatch.setattr(perceptual, "every", 9)  # more than there are frames: still one of them, each in its turn
    turns = [perceptual(pred, target, turn) for turn in range(10)]
    torch.testing.assert_close(torch.stack(turns), torch.stack(each + each))


@pytest.mark.parametrize("chunk", [1, 3, 100])
@pytest.mark.parametrize("distance", ["l1", "mse"])
def test_chunks_have_the_value_and_gradient_of_the_plain_graph(chunk, distance):
    loss = PerceptualLoss(distance=distance, frames_per_chunk=chunk).double()
    pred, target = (picture(seed, size=8, batch=2).double() for seed in (1, 2))
    pred.requires_grad_()
    weights = torch.tensor([0.3, -2.0]).double()
    chunked = loss(pred, target)
    (ours,) = torch.autograd.grad((chunked * weights).sum(), pred)
    frames = [x.transpose(1, 2).flatten(0, 1) for x in (pred, target)]
    plain = loss.frame_distances(*frames).unflatten(0, (2, 2)).mean(1)
    (theirs,) = torch.autograd.grad((plain * weights).sum(), pred)
    torch.testing.assert_close(chunked, plain)
    torch.testing.assert_close(ours, theirs)
    assert theirs.abs().max() > 0


def test_no_activation_outlives_the_call(perceptual):
    held = 0

    def count(tensor: Tensor) -> Tensor:
        nonlocal held
        held += tensor.numel()
        return tensor

    pred = picture(frames=5).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        total = perceptual(pred, picture(1, frames=5)).sum()
    # The gradient itself and nothing of VGG's 64 to 256 channels; what is saved inside the call is freed in it.
    kept = sum(t.numel() for t in _saved(total.grad_fn))
    assert held > 20 * pred.numel()
    assert kept == pred.numel()


def _saved(node) -> list[Tensor]:
    """Tensors that the graph behind a node still holds."""
    tensors = list(getattr(node, "saved_tensors", ()))
    return tensors + [t for parent, _ in node.next_functions if parent is not None for t in _saved(parent)]


def test_validation_builds_no_graph(perceptual):
    pred = picture(1)
    assert not perceptual(pred, picture(2)).requires_grad
    with torch.no_grad():
        assert not perceptual(pred.requires_grad_(), picture(2)).requires_grad


def test_authors_distance_is_the_mean_square_of_unnormalised_relu2_2():
    loss = PerceptualLoss(layers=["relu2_2"], distance="mse", normalise=False)
    pred, target = picture(1, frames=1), picture(2, frames=1)
    x = torch.cat([pred, target])[:, :, 0] / 2 + 0.5
    for index, layer in enumerate(loss.vgg.features):
        x = layer(x)
        if index == 8:
            break
    torch.testing.assert_close(loss(pred, target), F.mse_loss(x[:1], x[1:])[None])
    assert len(loss.vgg.features) == 9  # nothing is built behind the deepest layer


def test_perceptual_gradient_is_finite_at_identity_and_on_flat_pictures(perceptual):
    for clip in (torch.zeros(1, 3, 1, 16, 16), picture(frames=1)):
        pred = clip.clone().requires_grad_()
        perceptual(pred, clip).sum().backward()
        assert pred.grad.isfinite().all()


def test_perceptual_loss_refuses_what_it_cannot_do(perceptual):
    with pytest.raises(ValueError, match=r"layers \['relu9'\] must be some of relu1_2"):
        PerceptualLoss(layers=["relu9"])
    with pytest.raises(ValueError, match=r"layers \[\] must be some of"):
        PerceptualLoss(layers=[])
    with pytest.raises(ValueError, match="distance is l1 or mse, got 'l2'"):
        PerceptualLoss(distance="l2")
    with pytest.raises(ValueError, match="frames_per_chunk and every must be at least 1, got 0 and 1"):
        PerceptualLoss(frames_per_chunk=0)
    with pytest.raises(ValueError, match="up to relu4_3"):
        PerceptualLoss(layers=["relu2_2", "relu4_3"])
    with pytest.raises(ValueError, match=r"two clips .* got \(1, 3, 2, 16, 16\) and \(1, 3, 3, 16, 16\)"):
        perceptual(picture(), picture(frames=3))
