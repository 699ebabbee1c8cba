"""Perceptual loss (Johnson et al. 2016): distance between VGG16's activations of prediction and target."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from wan_alpha.losses.reconstruction import sample_mean
from wan_alpha.models.vgg import TAPS, load_vgg16

Distance = Literal["l1", "mse"]


class PerceptualLoss(nn.Module):
    """VGG16 feature distance of pairs of clips, frame by frame.

    Nothing here is trained, and VGG's memory does not grow with the clip: the gradient with respect to the prediction
    is taken at once, chunk by chunk, so that no activation outlives its chunk and nothing is computed twice.

    Args:
        weights: which VGG16, see `wan_alpha.models.vgg.load_vgg16`.
        layers: activations to compare, out of `wan_alpha.models.vgg.TAPS`; the loss is the mean over them.
        distance: "l1" or "mse" between activations.
        normalise: give VGG the ImageNet-normalised pictures it was trained on.
        every: compare every so-manyth frame; which ones turns with `turn`, so that over the steps
            every frame is looked at.
        frames_per_chunk: how many frames of the prediction (and as many of the target) are in VGG at a time.

    The authors' code is `PerceptualLoss("imagenet", layers=["relu2_2"], distance="mse", normalise=False)`.
    """

    def __init__(
        self,
        weights: str | Path = "bundled",
        layers: Sequence[str] = ("relu2_2", "relu3_3"),
        distance: Distance = "l1",
        normalise: bool = True,
        every: int = 1,
        frames_per_chunk: int = 16,
    ) -> None:
        super().__init__()
        if not layers or set(layers) - set(TAPS):
            raise ValueError(f"perceptual loss: layers {list(layers)} must be some of {', '.join(TAPS)}")
        if distance not in ("l1", "mse"):
            raise ValueError(f"perceptual loss: distance is l1 or mse, got {distance!r}")
        if min(frames_per_chunk, every) < 1:
            raise ValueError(
                f"perceptual loss: frames_per_chunk and every must be at least 1, got {frames_per_chunk} and {every}"
            )
        self.layers = tuple(layers)
        self.distance = distance
        self.normalise = normalise
        self.every = every
        self.frames_per_chunk = frames_per_chunk
        self.vgg = load_vgg16(weights, until=max(layers, key=TAPS.__getitem__))

    def forward(self, pred: Tensor, target: Tensor, turn: int = 0) -> Tensor:
        """Distance of every pair: two (B, 3, T, H, W) in [-1, 1] -> (B,).  `turn` is the number of the step.

        Stack all pairs of a step along the batch and call this once.
        """
        if pred.shape != target.shape or pred.dim() != 5:
            raise ValueError(
                f"perceptual loss: expected two clips (B, 3, T, H, W) of one shape, got {tuple(pred.shape)} and "
                f"{tuple(target.shape)}"
            )
        frames = slice(turn % min(self.every, pred.shape[2]), None, self.every)
        pred, target = pred[:, :, frames], target[:, :, frames]
        distances = _ChunkedDistances.apply(_frames(pred), _frames(target), self)
        return distances.unflatten(0, (pred.shape[0], pred.shape[2])).mean(1)

    def frame_distances(self, pred: Tensor, target: Tensor) -> Tensor:
        """The distance itself, with an ordinary graph behind it: two (N, 3, H, W) in [-1, 1] -> (N,)."""
        with torch.no_grad():
            wanted = self.vgg(target, self.layers, self.normalise)
        seen = self.vgg(pred, self.layers, self.normalise)
        differences = [a - b for a, b in zip(seen, wanted, strict=True)]
        errors = [sample_mean(d.abs() if self.distance == "l1" else d.square()) for d in differences]
        return torch.stack(errors).mean(0)


class _ChunkedDistances(torch.autograd.Function):
    """`PerceptualLoss.frame_distances`, chunk by chunk, that keeps its gradient instead of its activations.

    A frame's distance depends on that frame alone, so the gradient of the sum of all distances is known as soon as a
    chunk is, and backward only has to scale it.
    """

    @staticmethod
    def forward(ctx: Any, pred: Tensor, target: Tensor, loss: PerceptualLoss) -> Tensor:
        learn = ctx.needs_input_grad[0]
        distances: list[Tensor] = []
        gradients: list[Tensor] = []
        chunks = zip(pred.split(loss.frames_per_chunk), target.split(loss.frames_per_chunk), strict=True)
        for seen, wanted in chunks:
            with torch.set_grad_enabled(learn):
                leaf = seen.detach().requires_grad_(learn)
                distance = loss.frame_distances(leaf, wanted)
                if learn:
                    gradients += torch.autograd.grad(distance.sum(), leaf)
            distances.append(distance.detach())
        ctx.save_for_backward(*gradients)
        return torch.cat(distances)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        gradient = torch.cat(ctx.saved_tensors)
        return gradient * upstream.reshape(-1, 1, 1, 1).to(gradient.dtype), None, None


def _frames(clips: Tensor) -> Tensor:
    """(B, C, T, H, W) -> (B·T, C, H, W)."""
    return clips.transpose(1, 2).flatten(0, 1)
