"""What a validation of stage=dit shows: clips generated from fixed prompts with fixed seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

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
from wan_alpha.stages.held_out import from_all_ranks
from wan_alpha.training.config import CallbacksConfig, DataConfig, SamplesConfig
from wan_alpha.training.provenance import write_json
from wan_alpha.training.strategies import data_share

FPS = 8
Made = TypeVar("Made")


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
        loader: Any = trainer.val_dataloaders
        share = share_of_samples(pl_module, self.samples, len(loader.dataset), *data_share(trainer))
        with trainer.precision_plugin.forward_context():  # a bf16 base takes no float32
            rgb, alpha = generate(pl_module, self.samples, self.data, share)
        tiles = [on_checkerboard(c, a, side=128) for c, a in zip(rgb.float(), alpha.float(), strict=True)]
        made = dict(zip(share.numbers, zip(share.prompts, tiles, strict=True), strict=True))
        all_made = of_first_ranks(from_all_ranks(made, trainer.world_size))
        if not trainer.is_global_zero:
            return
        title = f"step {trainer.global_step}: {self.samples.steps} steps, guidance {self.samples.guidance:g}"
        prompts, pictures = zip(*all_made, strict=True)
        self._write(trainer, gallery(pictures, prompts, title=title), prompts)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        figures = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("val/")}
        write_json(self.run_dir / "metrics.json", {"step": trainer.global_step, "mean": figures})
        shown = "  ".join(f"{k.removeprefix('val/')} {v:.4f}" for k, v in sorted(figures.items()))
        Console().print(f"held-out loss after {trainer.global_step} steps: {shown}", highlight=False)

    def _write(self, trainer: pl.Trainer, pages: Frames, prompts: Sequence[str]) -> None:
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


@dataclass(frozen=True)
class Share:
    """The samples that a rank makes: their numbers, their prompts, for i2v their first frames."""

    numbers: list[int]
    prompts: list[str]
    condition: GivenFrame | None = None


def share_of_samples(
    module: AlphaDiTModule, samples: SamplesConfig, held_out: int, rank: int = 0, ranks: int = 1
) -> Share:
    """Sample n is rank n % ranks's.  For i2v it is made from held-out clip n, which is that rank's, too.

    A rank that would have none makes one of the others' again, for sharded weights need every rank; the first ranks'
    count.
    """
    count = len(samples.prompts) if module.given is None else min(len(samples.prompts), held_out)
    numbers = list(range(rank, count, ranks)) or [rank % count]
    if module.given is None:
        return Share(numbers, [samples.prompts[n] for n in numbers])
    captions, frames = module.given
    numbers = numbers[: len(captions)]
    return Share(numbers, captions[: len(numbers)], frames.first(len(numbers)))


def of_first_ranks(made: list[dict[int, Made]]) -> list[Made]:
    """The samples in order, each as the first rank that has it made it."""
    every = {n: sample for of_rank in reversed(made) for n, sample in of_rank.items()}
    return [every[n] for n in sorted(every)]


@torch.no_grad()
def generate(module: AlphaDiTModule, samples: SamplesConfig, data: DataConfig, share: Share) -> tuple[Tensor, Tensor]:
    """rgb (B, 3, T, H, W) and alpha (B, 1, T, H, W) of a share of the samples, sample n with seed `seed + n`."""
    shape = module.codec.latent_shape(data.num_frames, data.size[0], data.size[1])
    seeds = [samples.seed + n for n in share.numbers]
    shift = noise_shift(chosen_masks(shape[1:])) if module.settings.noise == "shifted" else None
    with module.sampling(share.prompts, share.condition) as model:
        z = sample_latents(model, module.scheduler, shape, seeds, samples.steps, samples.guidance, shift, module.device)
    return module.codec.decode(z)
