"""A run speaks for itself: what Lightning says to those who write Lightning code is left out."""

from __future__ import annotations

import logging
import warnings

ADVICE = (
    r"Found \d+ module\(s\) in eval mode",  # the frozen base
    r"Consider setting `persistent_workers=True`",  # an epoch never ends
    r"You have overridden `\w+` in `LightningModule`",  # batches of any data module are moved alike
    r"The '\w+' does not have many workers",
    r"Mismatch dtype between input and weight",  # torch's norms under autocast: right, only not fused
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",
    r"FSDP2-wrapped module \(\w+\) returned a view tensor",  # nothing here writes into what a block returns
    r"Grad strides do not match bucket view strides",  # of convolutions of one tap, whose strides mean nothing
    r"torch.distributed is disabled, unavailable or uninitialized",  # every rank reads the whole of a checkpoint
    r"It is recommended to use `self.log\('",  # what is logged has been gathered: it is the same on all ranks
)


def quieten_lightning() -> None:
    """Call after Lightning was imported: its import sets the level of its loggers."""
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in ADVICE:
        warnings.filterwarnings("ignore", message=message)
