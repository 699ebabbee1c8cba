"""From a checked configuration to the objects of a run."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from torch import nn

from wan_alpha.baselines.four_channel import FourChannelSpec, FourChannelVAE
from wan_alpha.baselines.latent_offset import LatentOffsetSpec, LatentOffsetVAE
from wan_alpha.command import ConfigError
from wan_alpha.losses.alpha import AlphaVAELoss
from wan_alpha.losses.diffusion_prior import DiffusionPrior
from wan_alpha.models.adapters import AdapterError, load_adapters
from wan_alpha.models.alpha_vae import AdapterSpec, AlphaVAE
from wan_alpha.models.base import check_size, load_vae, spatial_stride, temporal_stride
from wan_alpha.models.device import missing_compiler
from wan_alpha.models.dit import load_transformer
from wan_alpha.models.norms import fuse_norms
from wan_alpha.models.rgba_vae import RgbaVAE
from wan_alpha.models.text import MAX_TOKENS, TextEncoder
from wan_alpha.models.whole_clip import run_checkpointed
from wan_alpha.stages.base import BaseVAEModule
from wan_alpha.stages.stage import StageModule
from wan_alpha.stages.vae import AlphaVAEModule
from wan_alpha.training.build_dit import build_dit
from wan_alpha.training.build_optim import optimiser
from wan_alpha.training.config import (
    AlphaVAEConfig,
    BaseVAEConfig,
    FourChannelConfig,
    LatentOffsetConfig,
    LossConfig,
    PriorConfig,
    RunConfig,
)

log = logging.getLogger(__name__)


def build_module(config: RunConfig) -> StageModule:
    """The LightningModule of the configured stage."""
    stages: dict[str, Callable[[RunConfig], StageModule]] = {
        "base": _base_vae,
        "vae": _alpha_vae,
        "dit": build_dit,
    }
    module = stages[config.stage](config)
    for shape in (config.data, *(config.data.buckets or ())):
        check_size(module.base, shape.num_frames, shape.size[0], shape.size[1])
    if config.trainer.channels_last:
        use_channels_last(module)
    if config.trainer.fuse_norms and config.stage != "dit":
        if missing := missing_compiler():
            log.warning("trainer.fuse_norms=true needs %s, which is not here: steps take longer without it", missing)
        else:
            fuse_norms(module)
    return module


def _base_vae(config: RunConfig) -> BaseVAEModule:
    model = config.model
    assert isinstance(model, BaseVAEConfig)
    if model.init_from is None:
        vae = AutoencoderKLWan(**model.architecture)
    else:
        run = Path(model.init_from)
        vae = load_vae(run / "base" if (run / "base").exists() else run)
    return BaseVAEModule(vae, optimiser(config), model.kl_weight, config.seed)


def _alpha_vae(config: RunConfig) -> AlphaVAEModule:
    assert config.loss is not None
    vae = build_rgba_vae(config)
    prior = _prior(config.loss.prior, vae) if config.loss.prior.weight else None
    return AlphaVAEModule(vae, build_loss(config.loss), optimiser(config), prior, config.loss.prior.weight, config.seed)


def build_rgba_vae(config: RunConfig) -> RgbaVAE:
    """The RGBA VAE that `model` describes: the project's own, or a baseline's."""
    model, checkpointing = config.model, config.trainer.activation_checkpointing
    # In float32 whatever the precision of the step: in bf16, W + s·B·A would round small updates away.
    base = load_vae(config.base.path)
    vae: RgbaVAE
    if isinstance(model, AlphaVAEConfig):
        spec = AdapterSpec(model.lora.rank, model.lora.alpha, model.merge.init, model.merge.residual_blocks)
        vae = AlphaVAE(base, spec, checkpointing)
    elif isinstance(model, LatentOffsetConfig):
        vae = LatentOffsetVAE(base, LatentOffsetSpec(model.width, model.identity_weight), checkpointing)
    else:
        assert isinstance(model, FourChannelConfig)
        vae = FourChannelVAE(base, FourChannelSpec(model.kl_weight), checkpointing)
    if model.init_from is not None:
        start_from(vae, model.init_from)
    return vae


def start_from(vae: RgbaVAE, adapters: str) -> None:
    """Load trained adapters into a fresh model of the same shape.

    Raises:
        AdapterError: another rank, scale or depth.  With another scale the tensors would fit, and mean something else.
    """
    loaded = load_adapters(adapters, vae.base, vae.kind)
    keys = {
        "rank": "model.lora.rank",
        "lora_alpha": "model.lora.alpha",
        "residual_blocks": "model.merge.residual_blocks",
    }
    own = asdict(vae.spec) if isinstance(vae, AlphaVAE) else {}  # of the others, no tensor fits another shape
    if differing := [name for name in keys if name in own and loaded.spec.get(name) != own[name]]:
        here = ", ".join(f"{keys[name]}={own[name]:g}" for name in differing)
        there = " ".join(f"{keys[name]}={loaded.spec.get(name)}" for name in differing)
        raise AdapterError(f"model.init_from={adapters} has another shape than this run, which has {here}: set {there}")
    vae.load_adapter_state(loaded.tensors)


@torch.no_grad()
def _prior(config: PriorConfig, vae: RgbaVAE) -> DiffusionPrior:
    """The frozen transformer of a base, and what its text encoder makes of the empty prompt."""
    dtype = getattr(torch, config.dtype)
    text = TextEncoder.from_pretrained(config.base, dtype)
    empty = text([""], MAX_TOKENS).embeddings.to(dtype)
    del text  # the largest model of all, needed for one prompt
    transformer = load_transformer(config.base, dtype)
    if vae.run is run_checkpointed:
        transformer.enable_gradient_checkpointing()
    strides = temporal_stride(vae.base), spatial_stride(vae.base)
    z_dim = int(vae.base.config["z_dim"])
    return DiffusionPrior(transformer, empty, *strides, z_dim, config.ceiling, config.shift)


def build_loss(config: LossConfig) -> AlphaVAELoss:
    """The nine-term loss as configured.

    Raises:
        ConfigError: nothing is left to compare, or VGG's weights are missing or do not reach the layers.
    """
    weights: dict[str, float] = dict(config.weights)  # type: ignore[arg-type]
    try:
        return AlphaVAELoss(config.render, config.hard_mask, weights, config.edge, asdict(config.perceptual))
    except (ValueError, OSError) as error:
        raise ConfigError(f"loss: {error}") from error


def use_channels_last(module: nn.Module) -> None:
    """Store convolution weights channels-last: fast kernels then run without reordering (measured on CPU)."""
    formats = {nn.Conv2d: torch.channels_last, nn.Conv3d: torch.channels_last_3d}
    for name, layer in module.named_modules():
        if ".lora_" in name:
            continue  # folded as matrices, never run as convolutions
        for kind, memory_format in formats.items():
            if isinstance(layer, kind):
                layer.weight.data = layer.weight.data.contiguous(memory_format=memory_format)
