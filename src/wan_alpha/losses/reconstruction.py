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
    if pred.shape != target.shape:
        raise ValueError(f"l1: prediction {tuple(pred.shape)} and target {tuple(target.shape)} differ in shape")
    return sample_mean((pred - target).abs())
