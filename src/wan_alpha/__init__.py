"""wan-alpha: Wan video models with an alpha channel."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wan_alpha.models.alpha_vae import AlphaVAE
    from wan_alpha.pipeline.pipeline import AlphaWanPipeline
    from wan_alpha.pipeline.video import Video

__all__ = ["AlphaVAE", "AlphaWanPipeline", "Video"]

_HOMES = {"AlphaVAE": "models.alpha_vae", "AlphaWanPipeline": "pipeline.pipeline", "Video": "pipeline.video"}


def __getattr__(name: str) -> Any:
    """Import public names when they are asked for: a mistyped option should not wait for torch and diffusers."""
    if name in _HOMES:
        return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")
