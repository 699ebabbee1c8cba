"""The configuration of a training run: checked key by key, and as a whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from wan_alpha.command import ConfigError, plain_texts, validated
from wan_alpha.training.config import AlphaDiTConfig, RunConfig
from wan_alpha.training.identity import register_resolver

register_resolver()  # here, not in train.py: jobs of a sweep in processes of their own import this module, not that

INTERRUPTED = "the same command continues from the last checkpoint"
TEXTS = ("data.root", "data.cache_dir", "run_dir", "ckpt_path", "base.path", "model.vae_adapters", "model.init_from",
         "loss.perceptual.weights", "loss.prior.base", "logger.wandb.name", "note")  # fmt: skip
"""Paths and names; Hydra knows no letters beyond ASCII, spaces, commas and brackets in them."""


def plain_arguments(arguments: Sequence[str]) -> list[str]:
    """Arguments with the values of TEXTS quoted for Hydra; a run_dir that is put together from other keys stays."""
    composed = any(argument.startswith("run_dir=") and "${" in argument for argument in arguments)
    return plain_texts(arguments, *(key for key in TEXTS if not (composed and key == "run_dir")))


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
    kinds = {"vae": ("alpha_vae", "latent_offset", "four_channel"), "base": ("base_vae",), "dit": ("alpha_dit",)}
    if config.model.kind not in kinds[config.stage]:
        expected = " or ".join(kinds[config.stage])
        raise ConfigError(f"stage={config.stage} needs model.kind={expected}, not {config.model.kind}")
    if config.stage == "vae" and config.loss is None:
        raise ConfigError("stage=vae needs a loss; null is for stage=base")
    if isinstance(config.model, AlphaDiTConfig):
        check_dit(config, config.model)
    if config.data.kind == "latents":
        check_stored(config)
    data = config.data
    if (data.root is None) == (data.sources is None):
        raise ConfigError("give data.root (one set) or data.sources (several), not both; data=shards brings no root")
    if not isinstance(data.frame_stride, int) and data.frame_stride[0] > data.frame_stride[1]:
        raise ConfigError(f"data.frame_stride={data.frame_stride}: the smaller number comes first")
    if data.zoom[0] > data.zoom[1]:
        raise ConfigError(f"data.zoom={data.zoom}: the smaller number comes first")


def check_stored(config: RunConfig) -> None:
    """What belongs together with data=latents."""
    if config.stage != "dit":
        raise ConfigError(f"data=latents is for stage=dit; stage={config.stage} needs clips, see conf/data/")
    if config.data.sources or config.data.buckets or config.data.root is None:
        raise ConfigError("data=latents takes one data.root and one shape: data.sources and data.buckets are for clips")


def check_dit(config: RunConfig, model: AlphaDiTConfig) -> None:
    """What belongs together in stage=dit."""
    full = model.adapter.kind == "full"
    if not full and (model.fresh or model.init_from):
        raise ConfigError(
            f"model.adapter.kind={model.adapter.kind} trains adapters on the base's own transformer; model.fresh and "
            "model.init_from are for model.adapter.kind=full"
        )
    if model.adapter.kind == "paired":
        check_paired(config, model)
    elif not full and model.vae_adapters is None:
        raise ConfigError("model.vae_adapters is null: give the run or directory of a stage=vae, or tiny")
    if model.task == "i2v" and model.variants and config.data.kind != "latents":
        raise ConfigError("model.task=i2v needs data=latents (data_prep.encode task=i2v), or model.variants=0")
    low, high = model.timesteps.range or (0.0, 1.0)
    if not low < high:
        raise ConfigError(f"model.timesteps.range={[low, high]}: the smaller noise level comes first")
    if full and model.expert != "transformer":
        raise ConfigError("model.adapter.kind=full makes bases with one transformer: model.expert must be transformer")
    if bad := [t for t in model.validation_timesteps if not low <= t <= high]:
        raise ConfigError(f"model.validation_timesteps: {bad[0]} is not in model.timesteps.range={[low, high]}")
    if bad := [t for t in model.validation_timesteps if not 0 < t < 1]:
        raise ConfigError(f"model.validation_timesteps: {bad[0]} is not in (0, 1), where 0 is data and 1 noise")
    if model.variants and config.data.buckets:
        raise ConfigError("data.buckets needs model.variants=0: latents that are made once have one shape")
    if full and (model.frozen.dtype != "float32" or model.frozen.quantise != "none" or model.frozen.text_on_cpu):
        raise ConfigError("model.adapter.kind=full trains every weight: model.frozen must keep its defaults")
    if model.frozen.dtype != "float32" and config.trainer.precision == "32-true":
        raise ConfigError("model.frozen.dtype=bfloat16 needs trainer.precision=bf16-mixed, not 32-true")


def check_paired(config: RunConfig, model: AlphaDiTConfig) -> None:
    """What TransPixeler's method has no place for."""
    paired = "model.adapter.kind=paired (alpha as a second latent of the base's own VAE)"
    if model.vae_adapters is not None:
        raise ConfigError(f"{paired} uses no RGBA VAE: give model.vae_adapters=null")
    if model.task != "t2v" or model.noise != "plain":
        raise ConfigError(f"{paired} is for model.task=t2v and model.noise=plain")
    if config.data.kind == "latents":
        raise ConfigError(f"{paired} encodes its own latents: data=latents holds those of the RGBA VAE")
    if config.plan:
        raise ConfigError(f"plan=true does not know {paired}")
