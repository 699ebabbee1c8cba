"""AlphaWanPipeline: diffusers' WanPipeline whose videos have an alpha channel."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from diffusers.pipelines.wan.pipeline_wan import WanPipeline
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor
from transformers import CLIPVisionModel, UMT5EncoderModel

from wan_alpha.interop.adapter_files import DIT_FILES, AdapterFiles, AdapterPaths, find_adapters
from wan_alpha.interop.dit_adapters import merge_into, read_dit_adapter, read_metadata
from wan_alpha.interop.dit_formats import adapter_tensors
from wan_alpha.interop.official_vae import load_rgba_vae
from wan_alpha.interop.weights import CheckpointError, StoredWeights, weight_names
from wan_alpha.models.adapters import AdapterError
from wan_alpha.models.base import frame_rate
from wan_alpha.models.dit_adapters import check_fits, own_header
from wan_alpha.models.form import BaseForm
from wan_alpha.models.image_encoder import ImageEncoder
from wan_alpha.models.text import MAX_TOKENS, warn_of_cuts
from wan_alpha.pipeline.batch import batch
from wan_alpha.pipeline.codec import RgbaCodec
from wan_alpha.pipeline.image_to_video import FirstFrame, condition, conditioned
from wan_alpha.pipeline.loading import load_preview, locate_pipeline, missing_base
from wan_alpha.pipeline.schedules import DISTILLED_SHIFT, DISTILLED_STEPS, distilled_sigmas, explicit_sigmas, flow_shift
from wan_alpha.pipeline.video import Video

log = logging.getLogger(__name__)


class AlphaWanPipeline(WanPipeline):
    """Text -> RGBA video.  Everything of diffusers' WanPipeline works: schedulers, offloading, callbacks, LoRAs.

    `vae` is a `RgbaCodec`, which holds both decoders.  Load it with `from_pretrained`.
    """

    model_cpu_offload_seq = "text_encoder->image_encoder->transformer->transformer_2->vae"
    _optional_components = [*WanPipeline._optional_components, "image_encoder", "image_processor"]  # noqa: RUF012

    def __init__(  # diffusers reads the components and their types from this signature
        self,
        tokenizer: Any,
        text_encoder: UMT5EncoderModel,
        vae: AutoencoderKLWan,
        scheduler: SchedulerMixin,
        transformer: WanTransformer3DModel | None = None,
        transformer_2: WanTransformer3DModel | None = None,
        boundary_ratio: float | None = None,
        expand_timesteps: bool = False,
        image_encoder: CLIPVisionModel | None = None,
        image_processor: Any = None,
    ) -> None:
        parts = (tokenizer, text_encoder, vae, scheduler, transformer, transformer_2)
        super().__init__(*parts, boundary_ratio, expand_timesteps)  # type: ignore[arg-type]
        self.register_modules(image_encoder=image_encoder, image_processor=image_processor)
        self.few_step = False
        self.adapters: dict[str, str] = {}

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls,
        base: str | Path = "tiny",
        adapters: AdapterPaths = "tiny",
        merge: bool = True,
        distill: str | Path | None = None,
        preview: str | Path | None = None,
        dtype: torch.dtype = torch.float32,
        vae_dtype: torch.dtype = torch.float32,
        **components: Any,
    ) -> AlphaWanPipeline:
        """Load a base and put adapters on it.

        Args:
            base: `tiny` (shipped), `wan2.1-1.3b`, `wan2.1-14b`, `wan2.2-5b`, a hub id or a path in diffusers' layout.
            adapters: `tiny`, an exported directory, a run, or several: see `find_adapters`.
            merge: fold all adapters into the weights (in float32, then cast): no extra cost per step.  False keeps
                them apart, to be switched by diffusers' own functions.
            distill: LightX2V or CausVid LoRA, added after the DoRA; then 4 steps without guidance are the default.
            preview: a TAEHV file: its tiny decoder instead of the two, for a quick look.
            dtype: of transformer and text encoder; bfloat16 on a GPU.
            vae_dtype: of the VAE.
            components: parts to use instead of the base's (`scheduler=`, `transformer=`, ...).

        Raises:
            BaseError: no such base; says where to get it and how large it is.
            AdapterError: the adapters are missing, damaged or made for another base.
            PreviewError: the preview decoder likewise.
        """
        files = find_adapters(adapters)
        if distill is not None:
            files = replace(files, distill=Path(distill))
        _check_readable(files)
        if files.vae is None:
            log.warning("no adapters of the VAE: what comes out as alpha is the brightness of the picture")
        where = locate_pipeline(base)
        components = {"image_encoder": None, "image_processor": None} | components
        tiny = None if preview is None else load_preview(preview)
        try:
            vae = load_rgba_vae(base, files.vae)
            components["vae"] = vae.base
            where = where if Path(where).is_dir() else str(cls.download(where, **components))
            pipe = super().from_pretrained(where, dtype=dtype, **components)
        except AdapterError:
            raise
        except (OSError, ValueError) as error:
            raise missing_base(base, error) from error
        # Only now: diffusers loads models of its own classes only.  Cast after merging.
        pipe.register_modules(vae=RgbaCodec(vae, merge).to(vae_dtype))
        if pipe.transformer.config.image_dim is not None and pipe.image_encoder is None:
            image = ImageEncoder.from_pretrained(where)
            pipe.register_modules(image_encoder=image.encoder, image_processor=image.processor)
        pipe.vae.use_preview(tiny)
        pipe._put_on(files, merge, None if "transformer" in components else Path(where))
        # Names only: files travel, and the folders of whoever made them are nobody's business.
        used = {"vae": files.vae, "dit": files.dit, "dit_2": files.dit_2, "distill": files.distill,
                "preview": None if preview is None else Path(preview)}  # fmt: skip
        pipe.adapters = {"base": Path(base).name} | {k: _short(v) for k, v in used.items() if v is not None}
        return pipe

    def _put_on(self, files: AdapterFiles, merge: bool, stored: Path | None) -> None:
        """DoRA first, then the distillation LoRA, onto the transformer; onto a base's two experts, each its own.

        `stored` is the base's folder, whose weights were not cast; None where a transformer was given.
        """
        if self.transformer_2 is None and files.dit_2 is not None:
            raise AdapterError(f"{files.dit_2} is for transformer_2, a base's expert for low noise; this base has none")
        if self.transformer_2 is not None and files.distill is not None:
            raise AdapterError("distill= is for bases with one transformer; this one has two experts")
        self.few_step = files.distill is not None
        names: set[str] = set()
        for expert, dit in (("transformer", files.dit), ("transformer_2", files.dit_2)):
            if getattr(self, expert) is None:
                continue
            if dit is None:
                log.warning("no adapters of the DiT: %s is the plain base's, which knows nothing of alpha", expert)
            stack = {name: path for name, path in (("rgba", dit), ("distill", files.distill)) if path is not None}
            weights: Mapping[str, Tensor] = {} if stored is None else StoredWeights(stored / expert)
            names |= self._put_on_expert(expert, stack, merge, weights).keys()
        if names:
            self.set_adapters(sorted(names, reverse=True))  # rgba, distill

    def _put_on_expert(
        self, expert: str, stack: dict[str, Path], merge: bool, stored: Mapping[str, Tensor]
    ) -> dict[str, Path]:
        """One transformer's adapters; returns those that were kept apart."""
        transformer = getattr(self, expert)
        weights = transformer.state_dict()
        try:
            read = {name: read_dit_adapter(path, weights) for name, path in stack.items()}
        except CheckpointError as error:
            raise AdapterError(f"the adapters do not fit the base: {error}") from error
        for path in stack.values():
            check_fits(transformer, own_header(read_metadata(path)), path)
        if merge:
            merge_into(transformer, [(adapter, 1.0) for adapter in read.values()], stored)
            return {}
        for name, adapter in read.items():
            # Further differences (LightX2V's diff_b) are what diffusers' own reader understands.
            plain = not any(update.added for update in adapter.layers.values())
            source = adapter_tensors(adapter, "diffusers", weights)[0] if plain else str(stack[name])
            self.load_lora_weights(source, adapter_name=name, load_into_transformer_2=expert == "transformer_2")
        return stack

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str] | None = None,
        negative_prompt: str | list[str] | None = None,
        num_frames: int = 81,
        height: int = 480,
        width: int = 832,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        seed: int | Sequence[int] | None = None,
        shift: float | None = None,
        sigmas: Sequence[float] | None = None,
        fps: float | None = None,
        image: FirstFrame | None = None,
        output_type: str = "video",
        **options: Any,
    ) -> Any:
        """Generate.

        Args:
            prompt: one, or several that are sampled as a batch.
            negative_prompt: what guidance leads away from.
            num_frames: T = 1 + 4k; others are rounded, with a notice.
            height, width: pixels, multiples of 16 (32 for Wan2.2-5B).
            num_inference_steps, guidance_scale: None means 50 and 5.0, or for a distilled model 4 and 1.0.
            seed: one number for every prompt, or one per prompt; None is 0.  A video does not depend on the others of
                its batch.  Where a prompt gives several videos (`num_videos_per_prompt`), the next ones have seed + 1,
                seed + 2, ...
            shift: timestep shift of the schedule; None is the base's own, or 5 for a distilled model.
            sigmas: explicit noise levels instead of the scheduler's; a distilled model has its own.
            fps: frames per second that files are to have; None is the base's.
            image: first frame of the video, for bases that take one.
            output_type: `video`, or `latent` for the normalised latents.
            options: everything else that WanPipeline takes (callbacks, `max_sequence_length`, `generator` instead of a
                seed, ...).

        Returns:
            A `Video`, or a list of them, prompt after prompt, if `prompt` is a list or more than one is made; with
            output_type=`latent`, latents (B, z, T', h, w).  With return_dict=False, a tuple that holds that alone.

        Raises:
            ValueError: seeds, prompts and negative prompts differ in number, a seed and a generator are given, or there
                is no such output_type.
            SizeError, ImageError: this base cannot make such videos.
        """
        if output_type not in ("video", "latent"):
            raise ValueError(f"output_type={output_type!r}: there are video and latent")
        in_tuple = not options.pop("return_dict", True)
        num_frames = self.round_frames(num_frames)
        self.form.check_size(height, width)
        steps = num_inference_steps or (DISTILLED_STEPS if self.few_step else 50)
        guidance = guidance_scale if guidance_scale is not None else (1.0 if self.few_step else 5.0)
        if sigmas is None and self.few_step:
            sigmas = distilled_sigmas(steps, DISTILLED_SHIFT if shift is None else shift)
            shift = None
        warn_of_cuts(self.tokenizer, (prompt, negative_prompt), options.get("max_sequence_length", MAX_TOKENS))
        asked = batch(prompt, negative_prompt, seed, options)
        if options.get("generator") is None:
            options["generator"] = [torch.Generator("cpu").manual_seed(about["seed"]) for about in asked]
        given = condition(self, image, num_frames, height, width)
        with explicit_sigmas(self.scheduler, sigmas), flow_shift(self.scheduler, shift), conditioned(self, given):
            latents = (
                super()
                .__call__(
                    prompt, negative_prompt, height, width, num_frames, steps, guidance, output_type="latent", **options
                )
                .frames
            )
        if output_type == "latent":
            return (latents,) if in_tuple else latents
        made_with = {"steps": steps, "guidance_scale": guidance, **self.adapters}
        rgb, alpha = self.decode(latents)
        videos = [
            Video(rgb[i : i + 1], alpha[i : i + 1], fps or self.fps, about | made_with) for i, about in enumerate(asked)
        ]
        result = videos if isinstance(prompt, list) or len(videos) > 1 else videos[0]
        return (result,) if in_tuple else result

    def decode(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised latents (B, z, T', h, w) -> rgb (B, 3, T, H, W) in [-1, 1] and alpha (B, 1, T, H, W) in [0, 1].

        Both are in main memory, in float32.
        """
        z = self.vae.alpha_vae.denormalize(latents.to(self._execution_device, self.vae.dtype))
        rgb, alpha = self.vae.decode(z)
        self.maybe_free_model_hooks()
        return rgb, alpha

    @property
    def form(self) -> BaseForm:
        """Which sizes this base takes, and was made for."""
        return BaseForm.of(self.vae.config, self.transformer.config)

    def round_frames(self, num_frames: int) -> int:
        """The nearest 1 + 4k, with a notice if that is another number."""
        rounded = self.form.nearest_length(num_frames)
        if rounded != num_frames:
            log.warning("num_frames=%d is not 1 + %dk; making %d frames", num_frames, self.form.stride, rounded)
        return rounded

    @property
    def fps(self) -> float:
        """Frames per second, see `frame_rate`."""
        return frame_rate(self.vae.alpha_vae.base)

    def prepare_latents(self, batch_size: int, num_channels_latents: int = 16, *args: Any, **kwargs: Any) -> Tensor:
        """An image-to-video transformer has more input channels than a latent; only the latent's are noise."""
        return super().prepare_latents(batch_size, self.vae.config.z_dim, *args, **kwargs)


def _short(path: Path) -> str:
    """The last two parts of a path, or one if the last says enough."""
    return path.name if path.name not in ("adapters", "vae", "dit", *DIT_FILES) else "/".join(path.parts[-2:])


def _check_readable(files: AdapterFiles) -> None:
    """Before gigabytes are loaded: what goes onto the transformer can be opened."""
    try:
        for path in filter(None, (files.dit, files.dit_2, files.distill)):
            weight_names(path)
    except CheckpointError as error:
        raise AdapterError(f"adapters: {error}") from error
