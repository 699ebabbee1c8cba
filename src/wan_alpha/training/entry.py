"""The configuration of a training run: checked key by key, and as a whole."""

from __future__ import annotations

from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from ..command import ConfigError, validated
from .config import RunConfig

INTERRUPTED = "the same command continues from the last checkpoint"


def checked(cfg: DictConfig) -> tuple[RunConfig, dict[str, Any]]:
    """The composed tree as a `RunConfig`, and as plain containers.

    Raises:
        ConfigError: names each wrong key, the file it stands in and the nearest valid key.
    """
    if HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN:
        cfg.run_dir = HydraConfig.get().runtime.output_dir  # each job of a sweep has a directory of its own
    if OmegaConf.is_missing(cfg.data, "root") and cfg.data.get("sources"):
        cfg.data.root = None
    config, tree = validated(cfg, RunConfig)
    check_together(config)
    return config, tree


def check_together(config: RunConfig) -> None:
    """What no single key can show: parts that do not belong to each other."""
    kinds = {"vae": "alpha_vae", "base": "base_vae"}
    if config.model.kind != kinds[config.stage]:
        raise ConfigError(f"stage={config.stage} needs model.kind={kinds[config.stage]}, not {config.model.kind}")
    if config.stage == "vae" and config.loss is None:
        raise ConfigError("stage=vae needs a loss; null is for stage=base")
    data = config.data
    if (data.root is None) == (data.sources is None):
        raise ConfigError("give data.root (one set) or data.sources (several), not both; data=shards brings no root")
    if not isinstance(data.frame_stride, int) and data.frame_stride[0] > data.frame_stride[1]:
        raise ConfigError(f"data.frame_stride={data.frame_stride}: the smaller number comes first")
    if data.zoom[0] > data.zoom[1]:
        raise ConfigError(f"data.zoom={data.zoom}: the smaller number comes first")
