"""One evaluation, from a checked configuration to files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from .config import EvaluateConfig


class EvaluateError(ValueError):
    """What was asked for does not fit together."""


def evaluate(config: EvaluateConfig, tree: dict[str, Any]) -> None:
    """Run the task, or the comparison that `compare` asks for.

    Args:
        config: the checked configuration.
        tree: the same as plain containers, for the record.
    """
    if config.task == "reconstruction":
        from .reconstruct import reconstruct

        reconstruct(config, tree, Path(config.out))
    elif config.task == "generation":
        from .generate import generation

        generation(config, tree, Path(config.out))


def choose_device(name: str) -> torch.device:
    """ "auto" is the GPU if there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(name)
