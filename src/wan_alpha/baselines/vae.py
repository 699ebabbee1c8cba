"""What the trainable baseline VAEs share: a specification, and files of their own kind."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan

from wan_alpha.models.adapters import AdapterError, load_adapters, save_adapters
from wan_alpha.models.base import load_vae
from wan_alpha.models.rgba_vae import RgbaVAE


class BaselineVAE(RgbaVAE):
    """An RGBA VAE that the project compares itself with.

    Args:
        base: a Wan VAE in diffusers' form, frozen.
        spec: an instance of `spec_type`; None takes its defaults.
        checkpointing: see `RgbaVAE`.
    """

    spec_type: ClassVar[type]

    def __init__(self, base: AutoencoderKLWan, spec: Any = None, checkpointing: bool = True) -> None:
        super().__init__(base, checkpointing)
        self.spec = spec if spec is not None else self.spec_type()
        self.build()

    @abstractmethod
    def build(self) -> None:
        """Make what is trained."""

    @classmethod
    def from_pretrained(
        cls, base: str | Path = "tiny", adapters: str | Path | None = None, dtype: torch.dtype = torch.float32,
        spec: Any = None,
    ) -> Self:  # fmt: skip
        """Load a base and, if given, what was trained on it; see `AlphaVAE.from_pretrained`.

        Raises:
            BaseError: no such base.
            AdapterError: the adapters are missing, damaged, of another kind, or made for another base.
        """
        vae = load_vae(base, dtype)
        if adapters is None:
            return cls(vae, spec).to(dtype).eval()
        loaded = load_adapters(adapters, vae, cls.kind)
        try:
            model = cls(vae, cls.spec_type(**loaded.spec)).to(dtype)
        except TypeError as error:
            raise AdapterError(f"adapters in {adapters}: their spec does not fit {cls.kind}: {error}") from error
        model.load_adapter_state(loaded.tensors)
        return model.eval()

    def save_adapters(self, directory: str | Path, dtype: torch.dtype | None = None) -> None:
        tensors = {name: t.to(dtype or t.dtype) for name, t in self.adapter_state().items()}
        save_adapters(directory, self.base, asdict(self.spec), tensors, self.kind)
