"""The plan of stage=vae: one step of the real module, on fake tensors that have shapes and no numbers."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any
from unittest.mock import patch

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from wan_alpha.baselines.four_channel import FourChannelSpec, FourChannelVAE
from wan_alpha.baselines.latent_offset import LatentOffsetSpec, LatentOffsetVAE
from wan_alpha.command import ConfigError
from wan_alpha.losses.diffusion_prior import DiffusionPrior
from wan_alpha.losses.draws import Draws
from wan_alpha.models.alpha_vae import AdapterSpec, AlphaVAE
from wan_alpha.models.base import spatial_stride, temporal_stride
from wan_alpha.models.norms import fuse_norms
from wan_alpha.models.rgba_vae import RgbaVAE
from wan_alpha.models.text import MAX_TOKENS
from wan_alpha.models.vgg import VGG16
from wan_alpha.stages.vae import AlphaVAEModule
from wan_alpha.training.build import build_loss, use_channels_last
from wan_alpha.training.config import AlphaVAEConfig, FourChannelConfig, LatentOffsetConfig, RunConfig
from wan_alpha.training.flops import Flops
from wan_alpha.training.memory import LiveBytes, bytes_of, faked
from wan_alpha.training.plan import (
    Plan,
    flash_attention,
    for_gpu,
    fused_norms,
    transformer_arguments,
    uses_autocast,
    vae_arguments,
)


def plan_vae(config: RunConfig) -> Plan:
    """Bytes by part and FLOPs of a batch.

    Raises:
        ConfigError: stage=base.
        BaseError: the shapes of the base, or of the prior's, are not known.
    """
    if config.stage != "vae":
        raise ConfigError(f"plan=true is for stage=vae and stage=dit; stage={config.stage} has no plan")
    module, peak, flops = _step(config)
    trained = sum(p.numel() * p.element_size() for p in module.trainable().values())
    prior = 0 if module.prior is None else bytes_of(module.prior)
    numbers = sum(p.numel() for p in module.trainable().values())
    plan = Plan({"base VAE": bytes_of(module.vae) - trained, "adapters": trained}, flops, numbers)
    plan.parts |= {"diffusion prior": prior} if prior else {}
    plan.parts |= {"loss networks": bytes_of(module.loss), "gradients": trained}
    plan.parts |= {"optimiser": 2 * trained, "average": trained}
    plan.parts["activations and working space"] = max(0, peak - trained)  # the peak is one with gradients
    parts = [*module.base.encoder.children(), *module.base.decoder.children()]
    blocks = [block for part in parts for block in (part if isinstance(part, nn.ModuleList) else [part])]
    plan.unit = max(bytes_of(block) for block in blocks)
    return plan


def _step(config: RunConfig) -> tuple[AlphaVAEModule, int, int]:
    """(the module, bytes that a step makes at most, FLOPs of its matrix products and convolutions)."""
    d = config.data
    with torch.device("meta"):
        module = _module(config)
    if config.trainer.channels_last:
        use_channels_last(module)
    if config.trainer.fuse_norms:
        fuse_norms(module)
    module.log_step = lambda values: None  # type: ignore[method-assign]
    mode, live, counter = FakeTensorMode(), LiveBytes(), Flops()
    faked(module, mode)
    norms = fused_norms() if config.trainer.fuse_norms or for_gpu(config) else nullcontext()
    with mode, counter, live, flash_attention(), norms, patch("wan_alpha.stages.vae.draw", _drawn):
        rgb = torch.zeros(d.batch_size, 3, d.num_frames, *d.size)
        colour = torch.zeros(d.batch_size, 3)
        batch = {"rgb": rgb, "alpha": rgb[:, :1].clone(), "background": colour, "canvas": colour}
        batch["index"] = torch.arange(d.batch_size)
        with torch.autocast("cpu", torch.bfloat16, enabled=uses_autocast(config)):
            loss = module.training_step(batch, 0)
        counter.backward = True
        loss.backward()
    return module, live.peak, counter.total


def _drawn(seed: int, indices: Tensor, shape: tuple[int, ...]) -> Draws:
    """Random numbers of the shapes of real ones, which are no tensor operations."""
    count = len(indices)
    return Draws(torch.rand(count), torch.rand(count), torch.randn(count, *shape))


def _module(config: RunConfig) -> AlphaVAEModule:
    """The module of `build_module`, without weights."""
    assert config.loss is not None
    checkpointing = config.trainer.activation_checkpointing
    base = AutoencoderKLWan(**vae_arguments(config.base.path))
    vae = _codec(config.model, base, checkpointing)
    with patch("wan_alpha.losses.perceptual.load_vgg16", lambda weights, until: VGG16(until)):
        loss = build_loss(config.loss)
    prior = _prior(config, vae, checkpointing) if config.loss.prior.weight else None
    module = AlphaVAEModule(vae, loss, _no_optimiser, prior, config.loss.prior.weight, config.seed)
    module.requires_grad_(False)
    for parameter in module.trainable().values():
        parameter.requires_grad_(True)
    return module


def _no_optimiser(parameters: Any) -> Any:
    raise AssertionError("a plan counts a step's forward and backward pass: it makes no optimiser")


def _codec(model: Any, base: AutoencoderKLWan, checkpointing: bool) -> RgbaVAE:
    if isinstance(model, LatentOffsetConfig):
        return LatentOffsetVAE(base, LatentOffsetSpec(model.width, model.identity_weight), checkpointing)
    if isinstance(model, FourChannelConfig):
        return FourChannelVAE(base, FourChannelSpec(model.kl_weight), checkpointing)
    assert isinstance(model, AlphaVAEConfig)  # the start has no part in shapes, and `base` would read weights
    spec = AdapterSpec(model.lora.rank, model.lora.alpha, "random", model.merge.residual_blocks)
    return AlphaVAE(base, spec, checkpointing)


def _prior(config: RunConfig, vae: RgbaVAE, checkpointing: bool) -> DiffusionPrior:
    """Version 2's frozen transformer, on one empty prompt."""
    assert config.loss is not None
    settings, z_dim = config.loss.prior, int(vae.base.config["z_dim"])
    arguments = transformer_arguments(settings.base) | {"in_channels": z_dim, "out_channels": z_dim}
    transformer = WanTransformer3DModel(**arguments).to(getattr(torch, settings.dtype))
    if checkpointing:
        transformer.enable_gradient_checkpointing()
    empty = torch.zeros(1, MAX_TOKENS, arguments["text_dim"], dtype=getattr(torch, settings.dtype))
    strides = temporal_stride(vae.base), spatial_stride(vae.base)
    return DiffusionPrior(transformer, empty, *strides, z_dim, settings.ceiling, settings.shift)
