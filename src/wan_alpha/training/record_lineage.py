"""The place of a finished run in the chain: its data and adapters in, its weights out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger, WandbLogger
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from wan_alpha.lineage import Kind, Piece, folder_piece, log_lineage, write_lineage
from wan_alpha.models.adapters import AdapterError, locate_adapters
from wan_alpha.training.config import AlphaDiTConfig, RunConfig


@rank_zero_only
def record_lineage(config: RunConfig, manifests: dict[str, Any], loggers: Sequence[Logger]) -> None:
    """Write `lineage.json`, and log artifacts to Weights & Biases if it is on.

    Args:
        manifests: hashes of the data by split.
    """
    made, used = outcome(config), inputs(config, manifests["train"])
    write_lineage(config.run_dir, made, used)
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            log_lineage(logger.experiment, made, used, logger.experiment.offline)  # perhaps only since it began


def outcome(config: RunConfig) -> list[Piece]:
    """What the run has exported."""
    run_dir = Path(config.run_dir)
    if (run_dir / "base").is_dir():
        return [folder_piece("base", run_dir / "base", keep=False)]
    kind: Kind = "dit-adapters" if config.stage == "dit" else "vae-adapters"
    return [folder_piece(kind, run_dir / "adapters")]


def inputs(config: RunConfig, manifest: str) -> list[Piece]:
    """What the run was made of: its data, and adapters that others have trained."""
    used = [Piece("latents" if config.data.kind == "latents" else "data", manifest)]
    model = config.model
    named = [model.vae_adapters] if isinstance(model, AlphaDiTConfig) else []
    if config.stage == "vae":
        named.append(model.init_from)
    return used + [piece for name in named if name for piece in adapters_piece("vae-adapters", name)]


def adapters_piece(kind: Kind, name: str) -> list[Piece]:
    """The adapters of a directory, a run or `tiny`; none of what is not in that form."""
    try:
        return [folder_piece(kind, locate_adapters(name))]
    except AdapterError:
        return []
