"""Where a run's figures go: metrics.csv always, Weights & Biases or TensorBoard beside it."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pytorch_lightning.loggers import Logger, TensorBoardLogger, WandbLogger
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from wan_alpha.command import ConfigError
from wan_alpha.training.config import RunConfig
from wan_alpha.training.metrics_csv import MetricsCSV
from wan_alpha.training.provenance import describe_environment

log = logging.getLogger(__name__)
WANDB_START, WANDB_END = 60.0, 300.0
"""Seconds that W&B has to answer before a run, and to take the rest of it at the end; training never waits for it."""
TENSORBOARD = "tensorboard"
"""The folder of a run directory that `tensorboard --logdir` is given."""


class OncePerStep(Logger):
    """Before a checkpoint a step's row is logged, lest a kill loses it; after it Lightning logs the same row again."""

    _last: tuple[int | None, Mapping[str, float]] | None = None

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        if (step, metrics) != self._last:
            self._last = step, dict(metrics)
            super().log_metrics(dict(metrics), step)  # type: ignore[safe-super]


class WandbRun(OncePerStep, WandbLogger):
    """A run at Weights & Biases."""


class TensorBoardEvents(OncePerStep, TensorBoardLogger):
    """Events of one run in its own folder.  Rows after the step a run continues from are marked as purged."""

    def __init__(self, run_dir: str | Path, first_step: int) -> None:
        purge: dict[str, Any] = {"purge_step": first_step + 1} if first_step else {}
        super().__init__(run_dir, name=TENSORBOARD, version="", default_hp_metric=False, **purge)

    @rank_zero_only
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """The resolved configuration is written as text by `build_loggers`; hparams.yaml would be a second copy."""

    @rank_zero_only
    def save(self) -> None:
        self.experiment.flush()


def build_loggers(config: RunConfig, tree: dict[str, Any], first_step: int) -> list[Logger]:
    """metrics.csv always; Weights & Biases and TensorBoard as configured.

    Raises:
        ConfigError: logger.tensorboard without the package.
    """
    table = MetricsCSV(config.run_dir)
    table.continue_from(first_step)
    loggers: list[Logger] = [table]
    if config.logger.wandb.mode != "disabled":
        loggers.append(wandb_logger(config, tree))
    if config.logger.tensorboard:
        loggers.append(tensorboard_logger(config, tree, first_step))
    return loggers


def _is_first_rank() -> bool:
    return getattr(rank_zero_only, "rank", 0) == 0  # an attribute of a function, which type checkers do not know


def wandb_logger(config: RunConfig, tree: dict[str, Any]) -> WandbLogger:
    """One run at Weights & Biases for one run directory, however often it is continued; offline if nobody answers.

    Raises:
        ConfigError: there is no key, or it is refused.
    """
    import wandb
    from wandb.errors import AuthenticationError, CommError, UsageError

    logger = _wandb_logger(config, tree, config.logger.wandb.mode)
    if config.logger.wandb.mode != "online" or not _is_first_rank():
        return logger
    try:
        _ = logger.experiment  # connects
    except (AuthenticationError, UsageError) as error:
        raise ConfigError(
            f"logger.wandb.mode=online: {error}; call `wandb login`, or choose logger.wandb.mode=offline"
        ) from error
    except CommError as error:
        reason = str(error).partition("\n")[0]
        place = Path(config.run_dir) / "wandb"
        log.warning("W&B does not answer (%s): this run is kept offline; later: wandb sync %s", reason, place)
        wandb.teardown()  # its service still counts the run as begun
        return _wandb_logger(config, tree, "offline")
    return logger


def _wandb_logger(
    config: RunConfig, tree: dict[str, Any], mode: Literal["disabled", "offline", "online"]
) -> WandbLogger:
    wandb = config.logger.wandb
    file = Path(config.run_dir) / "wandb_id.txt"
    first = _is_first_rank()
    if first and not file.exists():
        file.write_text(uuid.uuid4().hex[:8])
    return WandbRun(
        id=file.read_text() if first else None,  # a continued run stays one run there, too
        resume="allow",
        project=wandb.project,
        entity=wandb.entity,
        name=wandb.name or Path(config.run_dir).name,
        tags=wandb.tags,
        save_dir=config.run_dir,
        offline=mode == "offline",
        mode=mode,  # Lightning only sets a variable, which wandb reads once per process
        job_type=f"train-{config.stage}",
        config=tree | {"code": describe_environment()["git"]},
        settings={"init_timeout": WANDB_START, "finish_timeout": WANDB_END} if mode == "online" else {},
    )


def tensorboard_logger(config: RunConfig, tree: dict[str, Any], first_step: int) -> TensorBoardEvents:
    """Events beside metrics.csv, and the configuration as text.

    Raises:
        ConfigError: the package is not installed.
    """
    try:
        import tensorboard  # noqa: F401  # Lightning would be content with tensorboardX, too, which writes other files
    except ImportError as error:
        raise ConfigError(
            "logger.tensorboard=true needs TensorBoard: pip install 'wan-alpha[tensorboard]'; metrics.csv has the same "
            "figures"
        ) from error
    logger = TensorBoardEvents(config.run_dir, first_step)
    if _is_first_rank():
        logger.experiment.add_text("config", f"```yaml\n{yaml.safe_dump(tree)}```", first_step)
    return logger
