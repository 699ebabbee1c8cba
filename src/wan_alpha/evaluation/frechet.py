"""Fréchet distances between sets of pictures or videos (FID, FVD), with memory that does not grow with the sets."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from wan_alpha.models.vgg import load_vgg16

Features = Callable[[Tensor], Tensor]


class FeatureError(ValueError):
    """A feature network cannot be loaded or does not give vectors."""


class Moments:
    """Running sums of feature vectors, in double precision.

    Attributes:
        count: vectors seen.
        total: their sum, (D,).
        products: the sum of their outer products, (D, D).
    """

    def __init__(self, count: int = 0, total: Tensor | None = None, products: Tensor | None = None) -> None:
        self.count, self.total, self.products = count, total, products

    def add(self, features: Tensor) -> None:
        """Include vectors (N, D)."""
        x = features.detach().double().cpu()
        total, products = x.sum(0), x.T @ x
        self.total = total if self.total is None else self.total + total
        self.products = products if self.products is None else self.products + products
        self.count += len(x)

    def mean(self) -> Tensor:
        """(D,)."""
        assert self.total is not None
        return self.total / self.count

    def covariance(self) -> Tensor:
        """Unbiased, (D, D)."""
        assert self.products is not None
        mean = self.mean()
        return (self.products - self.count * torch.outer(mean, mean)) / (self.count - 1)


def frechet_distance(a: Moments, b: Moments) -> float:
    """|mean_a - mean_b|^2 + trace(C_a + C_b - 2 (C_a C_b)^(1/2)) (Heusel et al. 2017).

    NaN below two vectors a side, or with one that holds NaN.

    With fewer vectors than dimensions the covariances are singular: comparable between systems on the same clips only.
    """
    if min(a.count, b.count) < 2:
        return float("nan")
    first, second = a.covariance(), b.covariance()
    if not (first.isfinite().all() and second.isfinite().all()):  # a codec that gave NaN
        return float("nan")
    root = torch.linalg.eigvals(first @ second).sqrt().real.sum()
    distance = (a.mean() - b.mean()).square().sum() + first.trace() + second.trace() - 2 * root
    return float(distance.clamp_min(0))


def picture_features(network: str, device: torch.device) -> tuple[str, Features, str]:
    """(metric name, function, description) of a feature network for pictures.

    Args:
        network: "vgg": relu3_3 of the bundled VGG16, averaged over the picture, 256 dimensions, named `rfid_vgg`.  Or a
            TorchScript file that maps uint8 (N, 3, H, W) to (N, D), such as the Inception of the FID (StyleGAN's
            `inception-2015-12-05.pt`), named `rfid`.
        device: where it runs.
    """
    if network == "vgg":
        vgg = load_vgg16("bundled").to(device)

        def see(pictures: Tensor) -> Tensor:
            return vgg(pictures.to(device), ["relu3_3"])[0].mean((2, 3))

        return "rfid_vgg", see, "bundled VGG16, relu3_3, mean over the picture"
    module = load_torchscript(network, device)

    def look(pictures: Tensor) -> Tensor:
        return _vectors(module(((pictures + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).to(device)), network)

    return "rfid", look, describe_file(network)


def load_torchscript(path: str, device: torch.device) -> torch.jit.ScriptModule:
    """A TorchScript module in inference mode; its archive holds code of TorchScript, no pickled Python."""
    try:
        return torch.jit.load(path, map_location=device).eval()
    except (RuntimeError, ValueError, OSError) as error:
        raise FeatureError(f"{path}: expected a TorchScript file of a feature network ({error})") from error


def describe_file(path: str) -> str:
    """Name and sha256 of a file, for the record."""
    with Path(path).open("rb") as file:
        return f"{Path(path).name}, sha256 {hashlib.file_digest(file, 'sha256').hexdigest()}"


def _vectors(features: Tensor, path: str) -> Tensor:
    if features.dim() != 2:
        raise FeatureError(f"{path}: expected features (N, D), got {tuple(features.shape)}")
    return features
