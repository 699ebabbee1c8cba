"""stage=dit: Wan learns to generate the RGBA VAE's latents (section 3.2 of the Wan-Alpha paper)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import UniPCMultistepScheduler
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from torch import Tensor, nn
from torch.optim import Optimizer

from wan_alpha.losses.draws import draw
from wan_alpha.losses.flow_matching import flow_matching_loss, interpolate, velocity
from wan_alpha.losses.shifted_noise import NoiseKind, masks_of, noise_shift, object_masks
from wan_alpha.losses.timesteps import NUM_TRAIN_TIMESTEPS, TimestepError, Timesteps, check_timesteps
from wan_alpha.models.base import spatial_stride, temporal_stride
from wan_alpha.models.codecs import Codec
from wan_alpha.models.context import divide_tokens
from wan_alpha.models.dit import AdapterKind, Expert, new_scheduler
from wan_alpha.models.dit_adapters import dit_fingerprint, remember_dit_fingerprint
from wan_alpha.models.folded_text import fold_text
from wan_alpha.models.image_condition import GivenFrame, condition_latent, with_condition
from wan_alpha.models.image_encoder import ImageEncoder, first_pictures
from wan_alpha.models.text import MAX_TOKENS, Prompts, TextEncoder, pad_prompts
from wan_alpha.models.transfer import send
from wan_alpha.stages.dit_export import export_adapters, export_base
from wan_alpha.stages.noise_levels import NoiseLevels
from wan_alpha.stages.optim import Optimiser
from wan_alpha.stages.stage import StageModule

VALIDATION_SEED = 20250929
"""Of the noise in every run's validation: figures of different runs are comparable."""


@dataclass(frozen=True)
class DiTSettings:
    """What a step of the DiT computes.

    Attributes:
        task: `t2v`, or `i2v`: the first RGBA frame is given, see `models.image_condition`.
        expert: which of the base's transformers this is; noted in the exported adapters.
        adapter: `dora` or `lora` train adapters; `full` trains every weight, and the text encoder with them.
        timesteps: which noise levels, and their weights.
        noise: `plain`, or version 2's `shifted`, whose mean is another away from the object (`losses.shifted_noise`).
        caption_dropout: share of samples that see the empty prompt.
        text_on_cpu: the frozen text encoder stays there; embeddings follow the latents.
        fold_padding: see `models.folded_text`; exact, and much faster for small models.
        validation_timesteps: at which t the held-out loss is measured.
    """

    task: Literal["t2v", "i2v"] = "t2v"
    expert: Expert = "transformer"
    adapter: AdapterKind = "dora"
    timesteps: Timesteps = field(default_factory=Timesteps)
    noise: NoiseKind = "plain"
    caption_dropout: float = 0.1
    text_on_cpu: bool = False
    fold_padding: bool = False
    validation_timesteps: Sequence[float] = (0.1, 0.3, 0.5, 0.7, 0.9)

    def __post_init__(self) -> None:
        check_timesteps(torch.tensor(self.validation_timesteps))
        low, high = self.timesteps.range
        if outside := [t for t in self.validation_timesteps if not low <= t <= high]:
            raise TimestepError(
                f"validation_timesteps: {outside[0]} is not in [{low:g}, {high:g}], the noise levels that are trained; "
                "give some from there"
            )


class AlphaDiTModule(StageModule):
    """Rectified flow on cached or freshly encoded latents.

        Z_t = t·ε + (1 - t)·Z,   v = ε - Z,   L = w(t) ||v̂(Z_t, t, prompt) - v||²

    Args:
        transformer: with its adapters, or to be trained whole.
        text: tokenizer and encoder.
        codec: the VAE, for batches that hold pixels, and to look at samples.
        settings: see there.
        optimiser: parameters -> what `configure_optimizers` returns.
        seed: of every sample's noise level, noise and caption dropout.
        scheduler: what samples are made with, and what a complete base ships.
        image: for i2v bases that want CLIP's features of the first frame.
    """

    def __init__(
        self,
        transformer: WanTransformer3DModel,
        text: TextEncoder,
        codec: Codec,
        settings: DiTSettings,
        optimiser: Optimiser,
        seed: int = 0,
        scheduler: UniPCMultistepScheduler | None = None,
        image: ImageEncoder | None = None,
    ) -> None:
        super().__init__(optimiser)
        self.transformer, self.codec = transformer, codec
        self.settings, self.seed = settings, seed
        if settings.text_on_cpu:
            object.__setattr__(self, "text", text)  # not a part of this module, so that nobody moves it
            object.__setattr__(self, "image", image)
        else:
            self.text, self.image = text, image
        self.scheduler = scheduler or new_scheduler(1.0)
        self.levels = NoiseLevels()
        self._empty: Prompts | None = None
        self.given: tuple[list[str], GivenFrame] | None = None  # held-out first frames: what i2v is sampled from
        self.folding = fold_text(transformer) if settings.fold_padding else None
        if settings.adapter == "full":
            self.transformer.requires_grad_(True).train()
            self.text.requires_grad_(True).train()

    text: TextEncoder
    image: ImageEncoder | None

    # ----- a step -------------------------------------------------------------------------------------------------

    def training_step(self, batch: dict, batch_idx: int) -> Tensor:
        z = self.latents(batch)
        draws = draw(self.seed, batch["index"], tuple(z.shape[1:]))
        t = send(self.settings.timesteps.sample(draws.u), z.device)
        noise = self.noise(batch, send(draws.noise, z.device).to(z.dtype))
        prompts = self.prompts(batch, draws.drop < self.settings.caption_dropout)
        losses = self.losses(z, noise, t, prompts, self.condition(batch))
        loss = (self.settings.timesteps.weight(t) * losses).mean()
        self.log_step({"loss": loss})
        self.levels.add(t, losses.detach())
        return loss

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        super().on_before_optimizer_step(optimizer)
        self.levels.log(self)

    def losses(
        self, z: Tensor, noise: Tensor, t: Tensor, prompts: Prompts, condition: GivenFrame | None = None
    ) -> Tensor:
        """||v̂ - v||² of each sample, (B,)."""
        predicted = self.velocity(interpolate(z, noise, t), t, prompts, condition)
        return flow_matching_loss(predicted, velocity(z, noise))

    def velocity(self, z_t: Tensor, t: Tensor, prompts: Prompts, condition: GivenFrame | None = None) -> Tensor:
        """v̂: what the transformer takes for ε - Z; for i2v it also sees the first frame."""
        features = None
        if condition is not None:
            z_t, features = with_condition(z_t, condition.latent, temporal_stride(self.codec.vae)), condition.features
        if self.folding is not None:
            self.folding.weigh(prompts)
        return self.transformer(
            hidden_states=z_t,
            timestep=t * NUM_TRAIN_TIMESTEPS,
            encoder_hidden_states=prompts.embeddings,
            encoder_hidden_states_image=features,
            return_dict=False,
        )[0]

    def latents(self, batch: dict) -> Tensor:
        """Normalised latents of a batch: stored ones, or its pixels encoded now."""
        z = batch.get("latent")
        if z is None:
            with torch.autocast(self.device.type, enabled=False):
                return self.codec.encode(batch)
        expected = self.codec.vae.config["z_dim"]
        if z.shape[1] != expected:
            raise ValueError(f"the latents have {z.shape[1]} channels, this base's have {expected}: encode them again")
        return z.float()

    def noise(self, batch: dict, plain: Tensor) -> Tensor:
        """ε, or version 2's ε' = ε + (1 - G)·0.05."""
        if self.settings.noise == "plain":
            return plain
        return plain + send(noise_shift(batch["mask"]), plain.device).to(plain.dtype)

    def on_before_batch_transfer(self, batch: dict, dataloader_idx: int) -> dict:
        """Version 2's G is found on the host, which in a step would have to wait for alpha."""
        if self.settings.noise == "plain" or "mask" in batch:
            return batch
        if "coverage" in batch:  # stored by data_prep.encode
            return batch | {"mask": masks_of(batch["coverage"])}
        if "alpha" in batch:
            return batch | {"mask": object_masks(batch["alpha"], spatial_stride(self.base), temporal_stride(self.base))}
        raise ValueError("model.noise=shifted needs the clips' alpha or the coverage of each latent cell")

    def condition(self, batch: dict) -> GivenFrame | None:
        """Each clip's first frame, stored or encoded now; None for t2v."""
        if self.settings.task == "t2v":
            return None
        stored = batch.get("condition")
        if stored is not None:
            features = batch["image"].float() if self.image is not None else None
            return GivenFrame(stored.float(), features)
        if "rgb" not in batch:
            raise ValueError("these latents were stored without their first frames: data_prep.encode task=i2v")
        with torch.autocast(self.device.type, enabled=False):
            latent = condition_latent(self.codec, batch)
        if self.image is None:
            return GivenFrame(latent)
        return GivenFrame(latent, self.image(first_pictures(batch["rgb"], batch["alpha"])).to(latent))

    def prompts(self, batch: dict, dropped: Tensor | None = None) -> Prompts:
        """Embeddings of a batch's captions; where `dropped` is true, of the empty prompt."""
        gone = [False] * len(batch["key"]) if dropped is None else dropped.tolist()
        pad_to = None if self.settings.fold_padding else MAX_TOKENS
        if "text" in batch:  # stored by data_prep.encode, padding cut
            empty = self.empty_prompt()
            kept = [empty.embeddings[0, : int(empty.lengths[0])] if g else e.to(self.device).float()
                    for e, g in zip(batch["text"], gone, strict=True)]  # fmt: skip
            return pad_prompts(kept, pad_to)
        return self.encode_prompts(["" if g else c for c, g in zip(batch["caption"], gone, strict=True)])

    def empty_prompt(self) -> Prompts:
        """Of a frozen text encoder: made in the first step, by all ranks together, for it may be sharded."""
        if self._empty is None:
            self._empty = self.encode_prompts([""])
        return self._empty

    def encode_prompts(self, captions: Sequence[str]) -> Prompts:
        """Embeddings of captions, padded as the transformer is to see them."""
        trained = self.settings.adapter == "full"
        # A frozen encoder computes as data_prep.encode does, whatever the precision of the step.
        mixed = trained and torch.is_autocast_enabled(self.device.type)
        with (
            torch.set_grad_enabled(torch.is_grad_enabled() and trained),
            torch.autocast(self.device.type, enabled=mixed),
        ):
            found = self.text(captions, None if self.settings.fold_padding else MAX_TOKENS)
        return Prompts(send(found.embeddings, self.device).float(), found.lengths)

    # ----- validation ---------------------------------------------------------------------------------------------

    def validation_step(self, batch: dict, batch_idx: int) -> dict[str, Tensor]:
        """The held-out loss at fixed noise levels with fixed noise: (B, number of levels)."""
        z, prompts = self.latents(batch), self.prompts(batch)
        noise = draw(VALIDATION_SEED, batch["index"], tuple(z.shape[1:])).noise
        noise = self.noise(batch, send(noise, z.device).to(z.dtype))
        condition = self.condition(batch)
        if condition is not None and batch_idx == 0:
            self.given = list(batch["caption"]), condition
        at = [self.losses(z, noise, t.expand(len(z)), prompts, condition) for t in self._validation_t(z.device)]
        table = torch.stack(at, dim=1)
        self.held_out.add(batch, table)
        return {"losses": table}

    def on_validation_epoch_end(self) -> None:
        names = [f"loss_t{t:g}" for t in self.settings.validation_timesteps]
        self.log_held_out(names, mean_as="loss")

    def _validation_t(self, device: torch.device) -> Iterator[Tensor]:
        yield from torch.tensor(self.settings.validation_timesteps, device=device)

    @contextmanager
    def sampling(self, captions: Sequence[str], condition: GivenFrame | None = None) -> Iterator[Any]:
        """A velocity function for `models.sampling.sample_latents` with these captions, for i2v also first frames."""
        with_prompt, without = self.encode_prompts(captions), self.encode_prompts([""] * len(captions))

        def model(z_t: Tensor, t: Tensor, prompted: bool) -> Tensor:
            return self.velocity(z_t, t, with_prompt if prompted else without, condition)

        yield model

    # ----- state --------------------------------------------------------------------------------------------------

    @property
    def base(self) -> AutoencoderKLWan:
        return self.codec.vae

    def base_fingerprint(self) -> str | dict[str, str]:
        """Of the frozen weights: with `full`, the VAE's alone."""
        vae = super().base_fingerprint()
        return vae if self.settings.adapter == "full" else {"vae": str(vae), "dit": dit_fingerprint(self.transformer)}

    def trainable(self) -> dict[str, nn.Parameter]:
        named = {f"transformer.{n}": p for n, p in self.transformer.named_parameters()}
        if self.settings.adapter == "full":
            return named | {f"text_encoder.{n}": p for n, p in self.text.encoder.named_parameters()}
        return {name: p for name, p in named.items() if ".lora_" in name}

    def shard_units(self) -> Iterator[nn.Module]:
        remember_dit_fingerprint(self.transformer)
        yield from self.transformer.blocks
        yield self.transformer
        if not self.settings.text_on_cpu:
            yield from self.text.encoder.encoder.block
            yield self.text.encoder

    def divide_tokens(self, group: Any) -> None:
        processor = self.folding or fold_text(self.transformer)  # without padding to fold it is plain attention
        processor.context = divide_tokens(self.transformer, group)

    def export(self, directory: Path, dtype: torch.dtype) -> None:
        """Adapters in `directory/adapters`, or with `full` a complete base in `directory/base`."""
        if self.settings.adapter == "full":
            export_base(directory / "base", self.transformer, self.text, self.codec.vae, self.scheduler, dtype)
        else:
            export_adapters(directory / "adapters", self.transformer, self.codec, dtype, self.settings.expert)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["noise_levels"] = self.levels.state(self.trainer.world_size)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.levels.restore(checkpoint["noise_levels"], self.global_rank)
