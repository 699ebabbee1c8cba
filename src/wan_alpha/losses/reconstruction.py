"""Pixel distances."""

import torch
from torch import Tensor


def sample_mean(values: Tensor) -> Tensor:
    """Mean over everything but the batch: (B, ...) -> (B,), summed in at least float32."""
    return values.flatten(1).mean(1, dtype=torch.promote_types(values.dtype, torch.float32))


def l1(pred: Tensor, target: Tensor) -> Tensor:
    """Mean absolute difference of every sample: two (B, ...) of one shape -> (B,).

    Raises:
        ValueError: if the shapes differ; broadcasting would hide a mistake.
    """
    return sample_mean(_difference("l1", pred, target).abs())


def mse(pred: Tensor, target: Tensor) -> Tensor:
    """Mean squared difference of every sample, otherwise as `l1`."""
    return sample_mean(_difference("mse", pred, target).square())


def _difference(kind: str, pred: Tensor, target: Tensor) -> Tensor:
    if pred.shape != target.shape:
        raise ValueError(f"{kind}: prediction {tuple(pred.shape)} and target {tuple(target.shape)} differ in shape")
    return pred - target
