"""stage=dit with TransPixeler's method: the same flow matching, on an RGB and an alpha latent one behind the other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from wan_alpha.baselines.paired_tokens import PairedSpec, save_paired, set_one_way
from wan_alpha.stages.dit import AlphaDiTModule


class PairedTokensModule(AlphaDiTModule):
    """`AlphaDiTModule` on a transformer that `pair_tokens` has prepared, with a `PairedCodec`.

    Args:
        spec: of the pairing.
        others: see `AlphaDiTModule`.
    """

    def __init__(self, spec: PairedSpec, *others: Any) -> None:
        super().__init__(*others)
        self.spec = spec
        set_one_way(self.transformer, spec)  # folding the text's padding replaced the processors

    def export(self, directory: Path, dtype: torch.dtype) -> None:
        """`directory/adapters/paired_tokens.safetensors`, which `generators.NAME=paired=RUN` reads."""
        save_paired(self.transformer, self.spec, directory / "adapters", dtype)
