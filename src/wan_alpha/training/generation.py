"""What a validation of stage=dit shows: clips generated from fixed prompts with fixed seeds."""

from __future__ import annotations

from pathlib import Path

import pytorch_lightning as pl
import torch
from PIL import Image
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import WandbLogger
from rich.console import Console
from torch import Tensor

from wan_alpha.evaluation.gallery import gallery, on_checkerboard
from wan_alpha.evaluation.panels import Frames, write_mp4
from wan_alpha.losses.shifted_noise import chosen_masks, noise_shift
from wan_alpha.models.image_condition import GivenFrame
from wan_alpha.models.sampling import sample_latents
from wan_alpha.stages.dit import AlphaDiTModule
from wan_alpha.training.config import CallbacksConfig, DataConfig, SamplesConfig
from wan_alpha.training.provenance import write_json
from wan_alpha.training.strategies import is_sharded

FPS = 8


class GenerationValidation(Callback):
    """Report the held-out loss, and generate.

    Args:
        run_dir: receives `panels/step-N.png`, `panels/step-N.webp` and `metrics.json`.
        config: whether pictures are drawn.
        samples: prompts, seeds, steps, guidance.
        data: length and size of a clip.
    """

    def __init__(self, run_dir: str | Path, config: CallbacksConfig, samples: SamplesConfig, data: DataConfig) -> None:
        self.run_dir, self.config, self.samples, self.data = Path(run_dir), config, samples, data

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, AlphaDiTModule)
        if not self.config.panels or not self.samples.prompts:
            return
        if not trainer.is_global_zero and not is_sharded(pl_module):  # sharded weights need every rank
            return
        with trainer.precision_plugin.forward_context():  # a bf16 base takes no float32
            rgb, alpha = generate(pl_module, self.samples, self.data)
        rgb, alpha = rgb.float(), alpha.float()
        tiles = [on_checkerboard(c, a, side=128) for c, a in zip(rgb, alpha, strict=True)]
        if not trainer.is_global_zero:
            return
        title = f"step {trainer.global_step}: {self.samples.steps} steps, guidance {self.samples.guidance:g}"
        prompts = given_prompts(pl_module, self.samples)[0]
        self._write(trainer, gallery(tiles, prompts, title=title), prompts)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        figures = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("val/")}
        write_json(self.run_dir / "metrics.json", {"step": trainer.global_step, "mean": figures})
        shown = "  ".join(f"{k.removeprefix('val/')} {v:.4f}" for k, v in sorted(figures.items()))
        Console().print(f"held-out loss after {trainer.global_step} steps: {shown}", highlight=False)

    def _write(self, trainer: pl.Trainer, pages: Frames, prompts: list[str]) -> None:
        stem = self.run_dir / "panels" / f"step-{trainer.global_step:08d}"
        stem.parent.mkdir(parents=True, exist_ok=True)
        frames = [Image.fromarray(page) for page in pages]
        frames[len(frames) // 2].save(stem.with_suffix(".png"), optimize=True)
        frames[0].save(
            stem.with_suffix(".webp"), save_all=True, append_images=frames[1:], duration=round(1000 / FPS), loop=0,
            quality=85, method=2,
        )  # fmt: skip
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                import wandb

                film = write_mp4(pages, stem.with_suffix(".mp4"), fps=FPS)
                video = wandb.Video(str(film), format="mp4", caption=", ".join(prompts))
                logger.experiment.log({"samples": video, "trainer/global_step": trainer.global_step})


def given_prompts(module: AlphaDiTModule, samples: SamplesConfig) -> tuple[list[str], GivenFrame | None]:
    """What is generated from: the configured prompts, for i2v the first held-out clips' captions and first frames."""
    if module.given is None:
        return samples.prompts, None
    count = min(len(samples.prompts), len(module.given[0]))
    return module.given[0][:count], module.given[1].first(count)


@torch.no_grad()
def generate(module: AlphaDiTModule, samples: SamplesConfig, data: DataConfig) -> tuple[Tensor, Tensor]:
    """rgb (B, 3, T, H, W) and alpha (B, 1, T, H, W) of all prompts, sample n with seed `seed + n`."""
    shape = module.codec.latent_shape(data.num_frames, data.size[0], data.size[1])
    prompts, condition = given_prompts(module, samples)
    seeds = range(samples.seed, samples.seed + len(prompts))
    shift = noise_shift(chosen_masks(shape[1:])) if module.settings.noise == "shifted" else None
    with module.sampling(prompts, condition) as model:
        z = sample_latents(
            model, module.scheduler, shape, list(seeds), samples.steps, samples.guidance, shift, module.device
        )
    return module.codec.decode(z)
