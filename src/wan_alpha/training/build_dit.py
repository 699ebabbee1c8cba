"""stage=dit, from a checked configuration to its module and its latents."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import torch
from diffusers import UniPCMultistepScheduler
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from transformers import AutoTokenizer

from wan_alpha.baselines.kinds import load_latent_codec
from wan_alpha.baselines.paired_tokens import PairedCodec, PairedSpec, pair_tokens
from wan_alpha.command import ConfigError
from wan_alpha.losses.timesteps import Timesteps
from wan_alpha.models.base import BaseError, load_vae, locate_base, temporal_stride
from wan_alpha.models.codecs import Codec
from wan_alpha.models.dit import (
    compile_blocks,
    load_scheduler,
    load_transformer,
    new_scheduler,
    new_transformer,
    noise_range,
)
from wan_alpha.models.identity import codec_identity, text_identity
from wan_alpha.models.image_condition import check_image_base, check_text_base
from wan_alpha.models.image_encoder import ImageEncoder
from wan_alpha.models.text import TextEncoder, new_text_encoder
from wan_alpha.stages.dit import AlphaDiTModule, DiTSettings
from wan_alpha.stages.paired import PairedTokensModule
from wan_alpha.training.build_optim import optimiser
from wan_alpha.training.config import AlphaDiTConfig, RunConfig
from wan_alpha.training.latents import LatentDataModule
from wan_alpha.training.precision import resolve_precision
from wan_alpha.training.stored import StoredLatentDataModule


def build_dit(config: RunConfig) -> AlphaDiTModule:
    """The LightningModule of stage=dit."""
    model = config.model
    assert isinstance(model, AlphaDiTConfig)
    if model.frozen.dtype != "float32" and resolve_precision(config.trainer) == "32-true":
        raise ConfigError(
            "model.frozen.dtype=bfloat16 needs trainer.precision=bf16-mixed; trainer.precision=auto is 32-true here"
        )
    paired = PairedSpec(model.adapter.rank, model.adapter.alpha, model.adapter.rgb_sees_alpha)
    pairing = model.adapter.kind == "paired"
    codec: Codec = (
        PairedCodec(load_vae(config.base.path)) if pairing else load_latent_codec(config.base.path, model.vae_adapters)
    )
    transformer, text, scheduler = _networks(config, model, codec)
    image = _image_encoder(config, transformer, codec)
    if pairing:
        pair_tokens(transformer, paired)
    elif model.adapter.kind in ("dora", "lora"):
        from wan_alpha.models.dit_adapters import add_dit_adapters

        lean = not config.trainer.activation_checkpointing
        add_dit_adapters(transformer, model.adapter.rank, model.adapter.alpha, model.adapter.kind, lean)
    if config.trainer.activation_checkpointing:
        transformer.enable_gradient_checkpointing()
    if model.frozen.compile:
        compile_blocks(transformer)
    settings = DiTSettings(
        text_on_cpu=model.frozen.text_on_cpu,
        task=model.task,
        expert=model.expert,
        adapter="lora" if model.adapter.kind == "paired" else model.adapter.kind,
        timesteps=build_timesteps(config, model, scheduler),
        noise=model.noise,
        caption_dropout=model.caption_dropout,
        fold_padding=model.fold_padding,
        validation_timesteps=tuple(model.validation_timesteps),
    )
    parts = (transformer, text, codec, settings, optimiser(config), config.seed, scheduler, image)
    return PairedTokensModule(paired, *parts) if pairing else AlphaDiTModule(*parts)


def build_timesteps(config: RunConfig, model: AlphaDiTConfig, scheduler: UniPCMultistepScheduler) -> Timesteps:
    """The distribution of t; what is not given is the base's: the scheduler's shift, the expert's noise levels."""
    given = asdict(model.timesteps)
    if model.timesteps.shift is None:
        given["shift"] = float(cast(Any, scheduler).config["flow_shift"])
    low, high = model.timesteps.range or noise_range(config.base.path, model.expert)
    return Timesteps(**(given | {"range": (low, high)}))


def settle_timesteps(tree: dict[str, Any], module: AlphaDiTModule) -> dict[str, Any]:
    """A run's configuration with the shift and the range of t in it that were left to the base."""
    given, found = tree["model"]["timesteps"], module.settings.timesteps
    whole = given["range"] is None and found.range == (0, 1)
    settled = given | {"shift": found.shift, "range": None if whole else list(found.range)}
    return tree | {"model": tree["model"] | {"timesteps": settled}}


def _image_encoder(config: RunConfig, transformer: WanTransformer3DModel, codec: Codec) -> ImageEncoder | None:
    """What else an image-to-video base sees of the first frame; a base that is for the other task is refused."""
    assert isinstance(config.model, AlphaDiTConfig)
    z_dim = int(codec.vae.config["z_dim"])
    if config.model.task == "t2v":
        check_text_base(transformer, z_dim)
        return None
    check_image_base(transformer, z_dim, temporal_stride(codec.vae))
    return None if transformer.config["image_dim"] is None else ImageEncoder.from_pretrained(config.base.path)


def _networks(
    config: RunConfig, model: AlphaDiTConfig, codec: Codec
) -> tuple[WanTransformer3DModel, TextEncoder, UniPCMultistepScheduler]:
    """Those of another run, fresh ones, or the base's."""
    source, dtype = config.base.path, getattr(torch, model.frozen.dtype)
    if model.init_from is not None:
        run = Path(model.init_from)
        source = str(run / "base" if (run / "base").exists() else run)
    elif model.fresh is not None:
        return _fresh(config, model, codec)
    transformer = load_transformer(source, dtype, model.frozen.quantise, model.expert)
    return transformer, TextEncoder.from_pretrained(source, dtype), load_scheduler(source)


def _fresh(
    config: RunConfig, model: AlphaDiTConfig, codec: Codec
) -> tuple[WanTransformer3DModel, TextEncoder, UniPCMultistepScheduler]:
    """Small networks with random weights, for the tokenizer of the base."""
    assert model.fresh is not None
    try:
        tokenizer = AutoTokenizer.from_pretrained(locate_base(config.base.path), subfolder="tokenizer")
    except (OSError, ValueError) as error:
        raise BaseError(f"{config.base.path} has no tokenizer: python -m data_prep.tokenizer makes one") from error
    text = new_text_encoder(tokenizer, model.fresh.text_encoder)
    transformer = new_transformer(model.fresh.transformer, int(codec.vae.config["z_dim"]), text.dim)
    return transformer, text, new_scheduler(model.fresh.flow_shift)


def build_latent_data(config: RunConfig, model: AlphaDiTConfig, module: AlphaDiTModule) -> LatentDataModule:
    """Latents encoded before training, kept in the run directory."""
    return LatentDataModule(
        config.data,
        config.seed,
        config.trainer.accumulate_grad_batches,
        codec=module.codec,
        variants=model.variants,
        style=model.captions,
        directory=Path(config.run_dir),
        identity={"codec": module.codec.fingerprint()},
        masked=model.noise == "shifted",
    )


def build_stored_data(config: RunConfig, model: AlphaDiTConfig, module: AlphaDiTModule) -> StoredLatentDataModule:
    """Latents that data_prep.encode has stored, if they are of this base and these adapters."""
    wanted = codec_identity(module.codec) | {"task": model.task}
    if module.image is not None:
        wanted["image"] = text_identity(module.image.encoder)
    stored_text = model.adapter.kind != "full"
    if stored_text and model.captions == "plain":
        wanted["text"] = text_identity(module.text.encoder)
    return StoredLatentDataModule(
        config.data, config.seed, config.trainer.accumulate_grad_batches, wanted, model.captions, stored_text
    )
