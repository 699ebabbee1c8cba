"""wan-alpha: Wan video models with an alpha channel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .models.alpha_vae import AlphaVAE

__all__ = ["AlphaVAE"]


def __getattr__(name: str) -> Any:
    """Import public names when they are asked for: a mistyped option should not wait for torch and diffusers."""
    if name == "AlphaVAE":
        from .models.alpha_vae import AlphaVAE

        return AlphaVAE
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")
