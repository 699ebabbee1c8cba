"""The RGBA VAE's loss: L_vae = L_alpha + L_soft + L_hard, each L1 + perceptual + edge (Wan-Alpha, section RGBA VAE)."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from wan_alpha.losses.edge import Edge, edge_loss
from wan_alpha.losses.perceptual import PerceptualLoss
from wan_alpha.losses.reconstruction import l1, mse
from wan_alpha.rendering import alpha_to_rgb, hard_render, soft_render

Render = Literal["none", "soft", "soft_hard"]
HardMask = Literal["target", "prediction"]

# Which pictures are compared: the paper's ablation goes from left to right.
PICTURES = {"none": ("alpha", "rgb"), "soft": ("alpha", "soft"), "soft_hard": ("alpha", "soft", "hard")}


@dataclass(frozen=True)
class LossWeights:
    """A term counts with the product of its two weights, `alpha/l1` with alpha · l1. Weight 0 is not computed at all.

    The paper sets all of them to 1 and has no mean squared difference.
    """

    l1: float = 1.0
    mse: float = 0.0
    perceptual: float = 1.0
    edge: float = 1.0
    alpha: float = 1.0
    soft: float = 1.0
    hard: float = 1.0
    rgb: float = 1.0  # straight colour, compared only without renders (render="none")

    def __post_init__(self) -> None:
        for field in fields(self):
            if not (weight := getattr(self, field.name)) >= 0:
                raise ValueError(f"loss weight {field.name} must be at least 0, got {weight}")


class AlphaVAELoss(nn.Module):
    """Compares RGBA clips as pictures: alpha in grey, the soft render, the hard render.

    All pictures are stacked, so that VGG and Sobel run once per step however many are compared.

    Args:
        render: "soft_hard" is the paper; "soft" leaves the hard render out; "none" compares straight colour instead.
        hard_mask: whose alpha > 0 decides the hard render of the prediction. "target": no flicker, and a gradient for
            colour wherever there should be some. "prediction": the authors' code.
        weights: `LossWeights`, or a mapping with some of its names.
        edge: "sobel" or "central", see `wan_alpha.losses.edge.edge_magnitude`.
        perceptual: options of `PerceptualLoss`; not built when its weight is 0.
    """

    def __init__(
        self,
        render: Render = "soft_hard",
        hard_mask: HardMask = "target",
        weights: LossWeights | Mapping[str, float] | None = None,
        edge: Edge = "sobel",
        perceptual: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        for name, value, kind in (("render", render, Render), ("hard_mask", hard_mask, HardMask), ("edge", edge, Edge)):
            if value not in get_args(kind):
                raise ValueError(f"AlphaVAELoss: {name} must be one of {', '.join(get_args(kind))}, got {value!r}")
        self.render, self.hard_mask, self.edge = render, hard_mask, edge
        self.weights = weights if isinstance(weights, LossWeights) else _parse_weights(weights or {})
        self.pictures = [name for name in PICTURES[render] if getattr(self.weights, name) > 0]
        if not self.pictures:
            raise ValueError(f"AlphaVAELoss: all of {', '.join(PICTURES[render])} have weight 0, nothing to compare")
        if not any(getattr(self.weights, kind) > 0 for kind in ("l1", "mse", "perceptual", "edge")):
            raise ValueError("AlphaVAELoss: all of l1, mse, perceptual, edge have weight 0, nothing to compare")
        self.perceptual = PerceptualLoss(**(perceptual or {})) if self.weights.perceptual > 0 else None

    def forward(
        self,
        pred_rgb: Tensor,
        pred_alpha: Tensor,
        rgb: Tensor,
        alpha: Tensor,
        canvas: Tensor,
        turn: int = 0,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of a batch.

        Args:
            pred_rgb: decoded colour, (B, 3, T, H, W), around [-1, 1], not clamped.
            pred_alpha: decoded alpha, (B, 1, T, H, W), around [0, 1], not clamped.
            rgb: true colour, (B, 3, T, H, W) in [-1, 1].
            alpha: true alpha, (B, 1, T, H, W) in [0, 1].
            canvas: the colour both are rendered on, (B, 3) or (3,) in [-1, 1].
            turn: the number of the step, for a perceptual loss that does not look at every frame.

        Returns:
            The weighted total, (), and the unweighted terms `picture/kind` (`alpha/l1`, `soft/edge`, ...),
            means over the batch without gradient, left on their device.
        """
        precision = torch.promote_types(rgb.dtype, torch.float32)
        pred_rgb, pred_alpha, rgb, alpha = (x.to(precision) for x in (pred_rgb, pred_alpha, rgb, alpha))
        mask = alpha > 0
        target = self._stack(rgb, alpha, canvas, mask)
        pred = self._stack(pred_rgb, pred_alpha, canvas, mask if self.hard_mask == "target" else pred_alpha > 0)

        distances = {kind: each.chunk(len(self.pictures)) for kind, each in self._distances(pred, target, turn).items()}
        total = rgb.new_zeros(rgb.shape[0])
        terms: dict[str, Tensor] = {}
        for index, picture in enumerate(self.pictures):
            for kind, each in distances.items():
                total = total + getattr(self.weights, picture) * getattr(self.weights, kind) * each[index]
                terms[f"{picture}/{kind}"] = each[index].detach().mean()
        return total.mean(), terms

    def _stack(self, rgb: Tensor, alpha: Tensor, canvas: Tensor, mask: Tensor) -> Tensor:
        """The compared pictures of all samples, (pictures · B, 3, T, H, W) in [-1, 1]."""
        draw = {
            "alpha": lambda: alpha_to_rgb(alpha),
            "soft": lambda: soft_render(rgb, alpha, canvas),
            "hard": lambda: hard_render(rgb, alpha, canvas, mask),
            "rgb": lambda: rgb,
        }
        return torch.cat([draw[name]() for name in self.pictures])

    def _distances(self, pred: Tensor, target: Tensor, turn: int) -> dict[str, Tensor]:
        """Every kind of distance with a weight above 0, (pictures · B,) each."""
        distances = {}
        if self.weights.l1 > 0:
            distances["l1"] = l1(pred, target)
        if self.weights.mse > 0:
            distances["mse"] = mse(pred, target)
        if self.perceptual is not None:
            distances["perceptual"] = self.perceptual(pred, target, turn)
        if self.weights.edge > 0:
            distances["edge"] = edge_loss(pred, target, self.edge)
        return distances


def _parse_weights(given: Mapping[str, float]) -> LossWeights:
    known = [field.name for field in fields(LossWeights)]
    if unknown := sorted(set(given) - set(known)):
        raise ValueError(f"unknown loss weight {unknown[0]!r}; known: {', '.join(known)}")
    return LossWeights(**given)
