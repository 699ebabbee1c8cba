"""What stage=vae trains and validation measures: any RGBA VAE built on a frozen Wan base."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, NamedTuple

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from torch import Tensor, nn

from wan_alpha.models.adapters import AdapterError
from wan_alpha.models.base import check_size
from wan_alpha.models.whole_clip import Runner, decode_clip, encode_features, latent_mean, run_checkpointed, run_plain


class Penalty(NamedTuple):
    """A term that a method adds to the reconstruction loss: its value, (), and how much it counts."""

    value: Tensor
    weight: float


class RgbaVAE(nn.Module, ABC):
    """Encode and decode RGBA video in the latent space of a frozen base.

    Args:
        base: a Wan VAE in diffusers' form; its weights are frozen.
        checkpointing: compute all but convolutions again in the backward pass (whole-clip passes only).
    """

    kind: ClassVar[str]
    """What its adapter files call it."""
    latents_mean: Tensor
    latents_std: Tensor

    def __init__(self, base: AutoencoderKLWan, checkpointing: bool = True) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.run: Runner = run_checkpointed if checkpointing else run_plain
        for name in ("latents_mean", "latents_std"):
            statistic = torch.tensor(base.config[name]).view(1, -1, 1, 1, 1)
            self.register_buffer(name, statistic, persistent=False)

    # ----- what a method is ---------------------------------------------------------------------------------------

    @abstractmethod
    def encode(
        self,
        rgb: Tensor,
        alpha: Tensor,
        background: Sequence[float] | Tensor = (1.0, -1.0, 1.0),
        streaming: bool = True,
    ) -> Tensor:
        """RGBA clip, rgb (B, 3, T, H, W) in [-1, 1] and alpha (B, 1, T, H, W) in [0, 1] -> raw latent (B, z, T', h, w).

        `background` is the colour below, (3,) or one per sample (B, 3), for methods that need one.  `streaming=False`
        runs the whole clip at once, with gradients; methods without a streaming form always do.
        """

    @abstractmethod
    def decode(self, z: Tensor, streaming: bool = True) -> tuple[Tensor, Tensor]:
        """Raw latent -> rgb (B, 3, T, H, W), about [-1, 1], and alpha (B, 1, T, H, W), about [0, 1]; unclamped."""

    @abstractmethod
    def adapter_parameters(self) -> dict[str, nn.Parameter]:
        """Everything that is trained, by its name in an adapter file."""

    @abstractmethod
    def save_adapters(self, directory: str | Path, dtype: torch.dtype | None = None) -> None:
        """Write `adapters.safetensors` and `adapters.json`, in `dtype` if given."""

    def penalties(self, rgb: Tensor, alpha: Tensor, background: Tensor, z: Tensor) -> dict[str, Penalty]:
        """What the method adds to the loss of a batch whose latent is `z`; nothing unless it says so."""
        return {}

    # ----- what all of them share ---------------------------------------------------------------------------------

    def forward(self, rgb: Tensor, alpha: Tensor, background: Tensor) -> tuple[Tensor, Tensor]:
        """Reconstruct a clip, whole, with gradients: `decode(encode(rgb, alpha, background))`."""
        return self.decode(self.encode(rgb, alpha, background, streaming=False), streaming=False)

    def base_runner(self) -> Runner:
        """Runs blocks of the plain base."""
        return run_plain

    @torch.no_grad()
    def base_roundtrip(self, video: Tensor) -> Tensor:
        """The frozen base alone: (B, 3, T, H, W) in [-1, 1] through its own latent and back, unclamped."""
        z = latent_mean(self.base, encode_features(self.base, video))
        return decode_clip(self.base, z, self.base_runner())

    def normalize(self, z: Tensor) -> Tensor:
        """Raw latent -> the unit-scale latent of the DiT: (z - mean) / std with the base's statistics."""
        return (z - self.latents_mean) / self.latents_std

    def denormalize(self, z: Tensor) -> Tensor:
        """The inverse of `normalize`."""
        return z * self.latents_std + self.latents_mean

    def adapter_state(self) -> dict[str, Tensor]:
        """The trained tensors by name (detached, shared memory)."""
        return {name: p.detach() for name, p in self.adapter_parameters().items()}

    @torch.no_grad()
    def load_adapter_state(self, tensors: dict[str, Tensor]) -> None:
        """Copy trained tensors in; every name and shape must match."""
        own = self.adapter_parameters()
        missing, unknown = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
        if missing or unknown:
            raise AdapterError(
                f"adapter tensors do not match: missing {missing[:3]}, unknown {unknown[:3]} (first three)"
            )
        for name, parameter in own.items():
            if tensors[name].shape != parameter.shape:  # copy_ would broadcast
                shapes = f"{tuple(tensors[name].shape)}, this model has {tuple(parameter.shape)}"
                raise AdapterError(f"adapter tensors do not match: {name}: {shapes}")
            parameter.copy_(tensors[name])

    def check_clip(self, rgb: Tensor, alpha: Tensor) -> None:
        """Floating-point tensors whose shapes fit each other and the base."""
        for name, tensor in (("rgb", rgb), ("alpha", alpha)):
            if not (torch.is_tensor(tensor) and tensor.is_floating_point()):
                found = tensor.dtype if torch.is_tensor(tensor) else type(tensor).__name__
                raise ValueError(f"{name} is {found}; expected a tensor of floats, rgb in [-1, 1] and alpha in [0, 1]")
        shapes = f"got rgb {tuple(rgb.shape)} and alpha {tuple(alpha.shape)}"
        if rgb.dim() != 5 or rgb.shape[1] != 3 or alpha.shape != (rgb.shape[0], 1, *rgb.shape[2:]):
            raise ValueError(f"rgb must be (B, 3, T, H, W) and alpha (B, 1, T, H, W) of the same size; {shapes}")
        if not rgb.numel():
            raise ValueError(f"the clip is empty: {shapes}")
        check_size(self.base, *rgb.shape[2:])

    def check_latent(self, z: Tensor) -> None:
        """A latent must hold something and have this base's number of channels."""
        fits = torch.is_tensor(z) and z.dim() == 5 and z.shape[1] == self.base.config["z_dim"] and z.numel() > 0
        if not fits:
            found = tuple(z.shape) if torch.is_tensor(z) else type(z).__name__
            raise ValueError(
                f"a latent is {found}; this base takes a tensor (B, {self.base.config['z_dim']}, T', h, w), not empty"
            )

    def check_precision(self, name: str, given: torch.dtype) -> None:
        """Outside autocast, what comes in must have the precision of the weights."""
        own = self.base.dtype
        if given != own and not torch.is_autocast_enabled(self.base.device.type):
            raise ValueError(
                f"{name} is {given}, the model {own}: convert it with .to({own}), or load the model with dtype={given}"
            )
