"""What a validation of stage=vae shows: pictures, and one table against the base's ceiling and floor."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import TensorBoardLogger, WandbLogger
from rich.console import Console
from torch import Tensor

from wan_alpha.command import ConfigError
from wan_alpha.evaluation.lpips import LPIPS
from wan_alpha.evaluation.metrics import RGBAMetrics
from wan_alpha.evaluation.panels import Frames, panel, write_mp4, write_panels
from wan_alpha.evaluation.tables import comparison_table, markdown_table
from wan_alpha.models.rgba_vae import RgbaVAE
from wan_alpha.rendering import alpha_to_rgb, hard_render, rgb_to_alpha
from wan_alpha.stages.held_out import from_all_ranks
from wan_alpha.training.config import CallbacksConfig
from wan_alpha.training.provenance import write_json

OURS, CEILING, FLOOR = "ours", "ceiling", "floor"
NOTE = "ours: one latent; ceiling: the base alone with two, for colour and for alpha; floor: the base, alpha ignored."


class ReconstructionValidation(Callback):
    """Measure the held-out clips, draw them, and compare with what the base alone can do.

    Each rank measures its share of them; the pictures are of the first rank's.

    Args:
        run_dir: receives `panels/step-N.png`, `panels/step-N.webp`, `table.md` and `metrics.json`.
        config: which pictures and which LPIPS.
    """

    def __init__(self, run_dir: str | Path, config: CallbacksConfig) -> None:
        self.run_dir = Path(run_dir)
        self.config = config
        try:
            self.lpips = LPIPS(config.lpips) if config.lpips else None
        except (ValueError, OSError) as error:
            raise ConfigError(f"callbacks.lpips={config.lpips}: {error}") from error
        self.reference: dict[str, RGBAMetrics] = {}
        self.reference_done = False
        self.metrics = RGBAMetrics(self.lpips)
        self.panels: dict[str, Frames] = {}

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.metrics, self.panels = RGBAMetrics(self.lpips), {}
        if self.lpips is not None:
            self.lpips.to(pl_module.device)
        if not self.reference_done:
            self.reference = {CEILING: RGBAMetrics(self.lpips), FLOOR: RGBAMetrics(self.lpips)}

    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        pred_rgb, pred_alpha = outputs["rgb"], outputs["alpha"]
        if any(batch["problem"]):  # noted by ReportUnreadable; a stand-in must not be measured in its place
            readable = [i for i, problem in enumerate(batch["problem"]) if not problem]
            pred_rgb, pred_alpha = pred_rgb[readable], pred_alpha[readable]
            batch = {name: _pick(values, readable) for name, values in batch.items()}
        truth = (batch["rgb"], batch["alpha"], batch["canvas"], batch["key"])
        self.metrics.update(pred_rgb, pred_alpha, *truth)
        if not self.reference_done:
            with trainer.precision_plugin.forward_context():  # the same precision as ours
                reference = base_reconstructions(cast(RgbaVAE, pl_module.vae), batch)
            for name, (rgb, alpha) in reference.items():
                self.reference[name].update(rgb, alpha, *truth)
        for i, key in enumerate(batch["key"]):
            if len(self.panels) < self.config.panel_clips:
                tensors = (batch["rgb"], batch["alpha"], pred_rgb, pred_alpha, batch["canvas"])
                rgb, alpha, rgb_hat, alpha_hat, canvas = (t[i].cpu() for t in tensors)
                self.panels[key] = panel(rgb, alpha, rgb_hat, alpha_hat, canvas, title=key)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        share_figures(trainer, [self.metrics] if self.reference_done else [self.metrics, *self.reference.values()])
        self.reference_done = True
        if not trainer.is_global_zero:
            return
        step = trainer.global_step
        rows = {OURS: self.metrics.compute()} | {name: m.compute() for name, m in self.reference.items()}
        Console().print(comparison_table(rows, title=f"held-out clips after {step} steps"))
        heading = f"After {step} steps, {len(self.metrics.per_clip)} held-out clips.\n\n"
        (self.run_dir / "table.md").write_text(f"{heading}{markdown_table(rows)}\n{NOTE}\n")
        write_json(self.run_dir / "metrics.json", {"step": step, "mean": rows, "clips": self.metrics.per_clip})
        figures = {f"val/{name}": value for name, value in rows[OURS].items()}
        for logger in trainer.loggers:
            logger.log_metrics(figures, step=step)
            logger.save()
        if self.config.panels:
            self._draw(trainer, step)

    def _draw(self, trainer: pl.Trainer, step: int) -> None:
        stem = self.run_dir / "panels" / f"step-{step:08d}"
        stem.parent.mkdir(parents=True, exist_ok=True)
        write_panels(stem, list(self.panels.values()), fps=8)
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                import wandb

                films = []
                for key, frames in self.panels.items():
                    path = write_mp4(frames, stem.parent / f"{stem.name}-{key}.mp4", fps=8)
                    films.append(wandb.Video(str(path), format="mp4", caption=key))
                logger.experiment.log({"panels": films, "trainer/global_step": step})
            if isinstance(logger, TensorBoardLogger):
                for key, frames in self.panels.items():
                    logger.experiment.add_image(f"panels/{key}", frames[len(frames) // 2], step, dataformats="HWC")


def share_figures(trainer: pl.Trainer, collected: list[RGBAMetrics]) -> None:
    """Give every rank the figures of all ranks' clips."""
    for share in from_all_ranks([metrics.per_clip for metrics in collected], trainer.world_size):
        for metrics, per_clip in zip(collected, share, strict=True):
            metrics.merge(per_clip)


def _pick(values: Any, indices: list[int]) -> Any:
    return values[indices] if torch.is_tensor(values) else [values[i] for i in indices]


@torch.no_grad()
def base_reconstructions(vae: RgbaVAE, batch: dict) -> dict[str, tuple[Tensor, Tensor]]:
    """What the frozen base does without this project: (rgb, alpha) for the ceiling and the floor.

    The ceiling spends two latents, one on the hard render and one on alpha as a grey video.  The floor spends one and
    ignores alpha: everything is opaque.
    """
    hard = hard_render(batch["rgb"], batch["alpha"], batch["background"])
    rgb = vae.base_roundtrip(hard).float()
    alpha = rgb_to_alpha(vae.base_roundtrip(alpha_to_rgb(batch["alpha"])).float())
    return {CEILING: (rgb, alpha), FLOOR: (rgb, torch.ones_like(alpha))}
