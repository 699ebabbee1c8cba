"""LPIPS against its formula, against the `lpips` package where that imports, and against common sense."""

from pathlib import Path

import pytest
import torch
import torchmetrics
from torch import Tensor
from torch.nn import functional as F

from wan_alpha.evaluation.lpips import LPIPS
from wan_alpha.models.vgg import TAPS, VGG16


@pytest.fixture(scope="module")
def full_vgg(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A VGG16 of full depth with random weights that keep the signal alive to the last level."""
    model = VGG16("relu5_3")
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        fan_in = parameter[0].numel() if parameter.dim() > 1 else 1e4
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * (2 / fan_in) ** 0.5)
    path = tmp_path_factory.mktemp("vgg") / "vgg16.pth"
    torch.save(model.state_dict(), path)
    return path


def pair(size: int = 32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    target = F.interpolate(torch.rand(2, 3, 4, 4, generator=generator) * 2 - 1, (size, size), mode="bilinear")
    return (target + 0.2 * torch.randn(target.shape, generator=generator)).clamp(-1, 1), target


def formula(metric: LPIPS, pred: Tensor, target: Tensor) -> Tensor:
    """Equation 1 of Zhang et al. 2018, position by position, with the heads and constants of version 0.1."""
    heads = torch.load(
        Path(torchmetrics.__file__).parent / "functional/image/lpips_models/vgg.pth", "cpu", weights_only=True
    )
    shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    features = []
    for picture in (pred, target):
        x, kept = (picture - shift.reshape(3, 1, 1)) / scale.reshape(3, 1, 1), []
        for index, layer in enumerate(metric.vgg.features):
            x = layer(x)
            if index in TAPS.values():
                kept.append(x)
        features.append(kept)
    total = torch.zeros(len(pred), dtype=pred.dtype)
    for level, (a, b) in enumerate(zip(*features, strict=True)):
        weight = heads[f"lin{level}.model.1.weight"].flatten().to(pred.dtype)
        difference = F.normalize(a, dim=1) - F.normalize(b, dim=1)
        total += torch.einsum("nchw,c->n", difference**2, weight) / (a.shape[2] * a.shape[3])
    return total


def test_three_levels_equal_the_formula_in_float64():
    metric = LPIPS().double()
    assert metric.name == "lpips3"
    pred, target = (x.double() for x in pair())
    torch.testing.assert_close(metric(pred, target), formula(metric, pred, target), rtol=1e-6, atol=0)


def test_five_levels_equal_the_formula_in_float64(full_vgg):
    metric = LPIPS(full_vgg).double()
    assert metric.name == "lpips"
    pred, target = (x.double() for x in pair())
    torch.testing.assert_close(metric(pred, target), formula(metric, pred, target), rtol=1e-6, atol=0)


def test_equals_the_lpips_package(full_vgg):
    try:
        import lpips
    except (ImportError, RuntimeError) as error:  # a torchvision that does not fit its torch raises RuntimeError
        pytest.skip(f"lpips does not import here: {error}")
    reference = lpips.LPIPS(net="vgg", pnet_rand=True, verbose=False)
    trained = torch.load(full_vgg, weights_only=True)
    slices = [getattr(reference.net, f"slice{i}") for i in range(1, 6)]
    for name, parameter in (item for part in slices for item in part.named_parameters()):
        parameter.data.copy_(trained[f"features.{name}"])
    pred, target = pair()
    with torch.no_grad():
        assert torch.equal(LPIPS(full_vgg)(pred, target), reference(pred, target).flatten())


def test_zero_at_identity_and_ordered_by_damage():
    metric, (_, target) = LPIPS(), pair()
    noise = torch.randn(target.shape, generator=torch.Generator().manual_seed(2))
    assert metric(target, target).tolist() == [0, 0]
    values = [metric(target + sigma * noise, target).mean().item() for sigma in (0.02, 0.1, 0.4)]
    assert 0 < values[0] < values[1] < values[2]


def test_flat_black_pictures_give_a_number():
    black = -torch.ones(1, 3, 16, 16)
    assert LPIPS()(black, black).item() == 0
    assert LPIPS()(black, -black).isfinite().all()


def test_shapes_must_agree():
    with pytest.raises(ValueError, match=r"\(2, 3, 32, 32\) and \(1, 3, 32, 32\) differ"):
        LPIPS()(pair()[0], pair()[1][:1])
