"""What a step computes in."""

from __future__ import annotations

from typing import Any

import torch

from wan_alpha.training.config import TrainerConfig


def resolve_precision(trainer: TrainerConfig) -> Any:
    """What `precision=auto` means on this machine: bf16 autocast where the hardware multiplies bf16, else float32."""
    if trainer.precision != "auto":
        return trainer.precision
    on_cpu = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False) if on_gpu(trainer) else on_cpu
    return "bf16-mixed" if has_bf16 else "32-true"


def on_gpu(trainer: TrainerConfig) -> bool:
    """Whether a run computes on a GPU."""
    return trainer.accelerator in ("gpu", "cuda") or (trainer.accelerator == "auto" and torch.cuda.is_available())
