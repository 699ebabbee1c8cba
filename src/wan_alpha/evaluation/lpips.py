"""LPIPS with VGG16 (Zhang et al. 2018, version 0.1), without torchvision."""

from pathlib import Path

import torch
import torchmetrics.functional.image
from torch import Tensor, nn

from wan_alpha.models.vgg import TAPS, load_vgg16

# The linear heads of the `lpips` package, as torchmetrics ships them.
_HEADS = Path(torchmetrics.functional.image.__file__).parent / "lpips_models" / "vgg.pth"


class LPIPS(nn.Module):
    """Learned perceptual distance of pictures.

    Args:
        weights: which VGG16, see `wan_alpha.models.vgg.load_vgg16`. "imagenet" (or a path to a full VGG16) gives the
            metric that papers report, named `lpips`. "bundled" ends at relu3_3, so that only the first three of five
            levels count: a metric of its own, named `lpips3`, good for comparing runs, not comparable with papers.
    """

    def __init__(self, weights: str | Path = "bundled") -> None:
        super().__init__()
        self.taps = list(TAPS)[:3] if weights == "bundled" else list(TAPS)
        self.name = "lpips3" if weights == "bundled" else "lpips"
        self.vgg = load_vgg16(weights, until=self.taps[-1])
        heads = torch.load(_HEADS, "cpu", weights_only=True)
        for level in range(len(self.taps)):
            self.register_buffer(f"head{level}", heads[f"lin{level}.model.1.weight"], persistent=False)

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        """Distance of every pair: two (N, 3, H, W) in [-1, 1] -> (N,), 0 for equal pictures."""
        if pred.shape != target.shape:
            raise ValueError(f"LPIPS: pictures {tuple(pred.shape)} and {tuple(target.shape)} differ in shape")
        distance = pred.new_zeros(len(pred))
        pairs = zip(self.vgg(pred, self.taps), self.vgg(target, self.taps), strict=True)
        for level, (seen, wanted) in enumerate(pairs):
            difference = (_unit(seen) - _unit(wanted)).square()
            distance = distance + (difference * self.get_buffer(f"head{level}")).sum(1).mean((1, 2))
        return distance


def _unit(features: Tensor) -> Tensor:
    """Activations scaled to length 1 over the channels of every position."""
    return features / (features.square().sum(1, keepdim=True).sqrt() + 1e-10)
