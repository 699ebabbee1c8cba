"""One evaluation, from a checked configuration to files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from wan_alpha.command import ConfigError
from wan_alpha.evaluating.config import EvaluateConfig


def evaluate(config: EvaluateConfig, tree: dict[str, Any]) -> None:
    """Run the task, or the comparison that `compare` asks for.

    Args:
        config: the checked configuration.
        tree: the same as plain containers, for the record.
    """
    if config.logger.tensorboard:
        raise ConfigError("logger=tensorboard is for train.py; evaluate.py writes tables and a report, or logger=wandb")
    out = Path(config.out)
    if config.compare is not None:
        from wan_alpha.evaluating.comparison import run_comparison

        run_comparison(Path(config.compare[0]), Path(config.compare[1]), out, config.seed, config.fail_on_worse)
    elif config.task == "preference":
        from wan_alpha.evaluating.study import preference

        preference(out, config.votes, config.seed)
    elif config.task == "reconstruction":
        from wan_alpha.evaluating.reconstruct import reconstruct

        reconstruct(config, tree, out)
    elif config.task == "generation":
        from wan_alpha.evaluating.generate import generation

        generation(config, tree, out)
