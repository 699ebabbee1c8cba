"""One training run, from a checked configuration to exported weights."""

from __future__ import annotations

import json
import logging
import sys
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import Logger, WandbLogger
from pytorch_lightning.utilities import rank_zero_only
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from rich.console import Console
from rich.markdown import Markdown
from rich.markup import escape

from wan_alpha.command import ConfigError
from wan_alpha.data.captions import hash_captions
from wan_alpha.stages.dit import AlphaDiTModule
from wan_alpha.stages.stage import StageModule
from wan_alpha.training.build import build_module
from wan_alpha.training.build_dit import build_latent_data, build_stored_data, settle_timesteps
from wan_alpha.training.build_optim import schedule_steps
from wan_alpha.training.checkpoints import (
    CHECKPOINT_DIR,
    AtomicCheckpointIO,
    CheckpointError,
    PeriodicCheckpoint,
    last_checkpoint,
    read_header,
)
from wan_alpha.training.config import AlphaDiTConfig, RunConfig
from wan_alpha.training.data import ClipDataModule
from wan_alpha.training.ema import AdapterEMA
from wan_alpha.training.finish import Export, LastStep
from wan_alpha.training.generation import GenerationValidation
from wan_alpha.training.guards import ReportUnreadable, SameStart, StopOnNonFinite
from wan_alpha.training.heartbeat import Heartbeat
from wan_alpha.training.identity import differing_keys
from wan_alpha.training.loggers import build_loggers
from wan_alpha.training.pace import Pace
from wan_alpha.training.precision import resolve_precision
from wan_alpha.training.preemption import StopOnSignal
from wan_alpha.training.progress import DataWait, StepProgress
from wan_alpha.training.provenance import describe_environment, write_json
from wan_alpha.training.quiet import quieten_lightning
from wan_alpha.training.record_lineage import record_lineage
from wan_alpha.training.stored import StoredLatentDataModule
from wan_alpha.training.strategies import build_strategy, check_processes, places, share_batch
from wan_alpha.training.utilisation import Utilisation
from wan_alpha.training.validation import ReconstructionValidation

log = logging.getLogger(__name__)
CONSOLE = Console()
say = rank_zero_only(CONSOLE.print)  # one of several ranks speaks for all


def train(config: RunConfig, tree: dict[str, Any]) -> None:
    """Run to `trainer.max_steps`, or continue the run that `ckpt_path` names.

    Args:
        config: the checked configuration.
        tree: the same as plain containers, for the record.
    """
    quieten_lightning()
    run_dir = Path(config.run_dir)
    run_dir.mkdir(parents=True, exist_ok=True)
    if config.trainer.threads:
        torch.set_num_threads(config.trainer.threads)
    # Deterministic mode also fills every new tensor with NaN, a tenth of a small model's step; nothing here reads them.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    pl.seed_everything(config.seed, workers=True, verbose=False)
    trainer: Any = build_trainer(config)  # first: it knows at once whether the devices are there
    global_batch = share_batch(config, trainer)
    module = build_module(config)
    data = build_data(config, module)
    report_data(data)
    identity = run_identity(config, tree, module, data, global_batch)
    manifests = identity["data manifest"]
    checkpoint = find_checkpoint(config.ckpt_path, run_dir)
    first_step = 0 if checkpoint is None else check_same_run(checkpoint, identity)
    if first_step >= config.trainer.max_steps:
        report_finished(run_dir, first_step)
        return
    prepare_run_dir(run_dir, tree, {"seed": config.seed, "data": manifests}, first_step)
    trainer.callbacks += build_callbacks(config, identity)
    trainer.loggers = build_loggers(config, tree, first_step)
    try:
        trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
        record_lineage(config, manifests, trainer.loggers)
    except SystemExit:  # Lightning's answer to Ctrl-C
        raise KeyboardInterrupt from None
    finally:
        finish_wandb(trainer.loggers)
    say(f"[green]done[/green]: {escape(str(run_dir))}", soft_wrap=True)


def run_identity(
    config: RunConfig,
    tree: dict[str, Any],
    module: StageModule,
    data: ClipDataModule | StoredLatentDataModule,
    global_batch: int,
) -> dict[str, Any]:
    """The configuration with what it leaves open: equal for two runs whose steps compute the same."""
    identity = tree | {
        "global batch": global_batch,
        "precision": resolve_precision(config.trainer),
        "schedule steps": schedule_steps(config) if config.optim.decay_share else None,
        "data manifest": {"train": data.train_source.manifest_hash, "val": data.val_source.manifest_hash},
        "data mixture": list(data.order.quotas) if isinstance(data, ClipDataModule) and config.data.sources else None,
        "base weights": module.base_fingerprint(),
    }
    if isinstance(module, AlphaDiTModule):
        identity = settle_timesteps(identity, module) | {"captions": hash_captions(data.train_source.clips)}
    return identity


def build_data(config: RunConfig, module: StageModule) -> ClipDataModule | StoredLatentDataModule:
    """Clips, or for stage=dit their latents, stored before or encoded now."""
    if isinstance(module, AlphaDiTModule) and config.data.kind == "latents":
        assert isinstance(config.model, AlphaDiTConfig)
        return build_stored_data(config, config.model, module)
    if isinstance(module, AlphaDiTModule) and isinstance(config.model, AlphaDiTConfig) and config.model.variants:
        return build_latent_data(config, config.model, module)
    return ClipDataModule(config.data, config.seed, config.trainer.accumulate_grad_batches)


def find_checkpoint(ckpt_path: str | None, run_dir: Path) -> Path | None:
    """`auto` is the newest checkpoint of the run directory, if any; null starts anew; else the path itself."""
    if ckpt_path is None:
        return None
    if ckpt_path == "auto":
        found = last_checkpoint(run_dir)
        if found is not None:
            say(f"continuing {found} (ckpt_path=null or another run_dir starts anew)", markup=False, soft_wrap=True)
        return found
    path: Path | None = Path(ckpt_path)
    if Path(ckpt_path).is_dir() and Path(ckpt_path).suffix != ".ckpt":  # a sharded checkpoint is a directory, too
        path = last_checkpoint(ckpt_path)
    if path is None or not path.exists():
        raise CheckpointError(f"ckpt_path={ckpt_path}: no checkpoint there; give a .ckpt file, a run directory or auto")
    return path


def set_aside_checkpoints(run_dir: Path, after: int) -> None:
    """A run must not meet checkpoints of steps it has not reached: they are of an earlier run; nothing is deleted."""
    later = [p for p in (run_dir / CHECKPOINT_DIR).glob("step-*.ckpt") if int(p.stem.split("-")[-1]) > after]
    if later:
        aside = next(p for n in count(1) if not (p := run_dir / f"{CHECKPOINT_DIR}-before-{n}").exists())
        aside.mkdir()
        for path in later:
            path.rename(aside / path.name)
        say(f"starting at step {after}; checkpoints of later steps are now in {aside}", markup=False, soft_wrap=True)


@rank_zero_only
def prepare_run_dir(run_dir: Path, tree: dict[str, Any], record: dict[str, Any], first_step: int) -> None:
    """Write down what is run and where; every start of a run that was continued leaves an entry."""
    set_aside_checkpoints(run_dir, first_step)
    write_json(run_dir / "config.json", tree)
    file = run_dir / "environment.json"
    starts = json.loads(file.read_text())["starts"] if first_step and file.exists() else []
    environment = describe_environment()
    starts.append({"step": first_step, "command": environment["command"], "git": environment["git"]})
    write_json(file, environment | record | {"starts": starts})


def report_finished(run_dir: Path, step: int) -> None:
    """There is nothing left to do: show what came out."""
    say(f"finished at step {step} before: {run_dir} (ckpt_path=null starts anew)", markup=False, soft_wrap=True)
    table = run_dir / "table.md"
    if table.exists():
        say(Markdown(table.read_text()))


def check_same_run(checkpoint: Path, identity: dict[str, Any]) -> int:
    """The step of a checkpoint; refuse one that another configuration or other data made, and name what differs."""
    state = read_header(checkpoint)
    if "run_config" not in state:
        raise CheckpointError(f"{checkpoint} was not written by train.py: it does not say of what run it is")
    known = {name: identity.get(name) for name in ("captions",) if name in identity}  # what older checkpoints leave out
    differing = differing_keys(known | state["run_config"], identity)
    if differing:
        raise CheckpointError(
            f"{checkpoint} was made with another configuration:\n  "
            + "\n  ".join(differing)
            + "\nSet these keys back, choose another run_dir, or start anew with ckpt_path=null"
        )
    return int(state["global_step"])


class _KeepConfig(Callback):
    """The configuration travels inside the checkpoint."""

    def __init__(self, tree: dict[str, Any]) -> None:
        self.tree = tree

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict) -> None:
        checkpoint["run_config"] = self.tree


def build_trainer(config: RunConfig) -> pl.Trainer:
    """Lightning's Trainer; callbacks and loggers follow once it is known which step the run begins at.

    Raises:
        ConfigError: the devices are not there, or the strategy is unknown.
    """
    try:
        trainer = _trainer(config)
    except ConfigError:
        raise
    except (MisconfigurationException, ValueError, RuntimeError) as error:  # the last of what Slurm has started
        t = config.trainer
        wanted = f"accelerator={t.accelerator}, devices={t.devices}, strategy={t.strategy}"
        raise ConfigError(f"trainer: {wanted} cannot be had: {error}; trainer=cpu runs everywhere") from error
    check_processes(trainer)
    return trainer


def _trainer(config: RunConfig) -> pl.Trainer:
    t = config.trainer
    validating = t.val_every_n_steps > 0
    devices, num_nodes = places(t)
    return pl.Trainer(
        default_root_dir=config.run_dir,
        accelerator=t.accelerator,
        devices=devices,
        num_nodes=num_nodes,
        strategy=build_strategy(config),
        precision=resolve_precision(t),
        max_steps=t.max_steps,
        accumulate_grad_batches=t.accumulate_grad_batches,
        gradient_clip_val=t.gradient_clip_val or None,
        deterministic=t.deterministic,
        log_every_n_steps=t.log_every_n_steps,
        val_check_interval=t.val_every_n_steps * t.accumulate_grad_batches if validating else 1.0,
        check_val_every_n_epoch=None if validating else 1,
        limit_val_batches=1.0 if validating else 0,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        profiler=DataWait(),
        plugins=[AtomicCheckpointIO()],
        logger=False,
    )


def build_callbacks(config: RunConfig, tree: dict[str, Any]) -> list[Callback]:
    """In the order in which they act after a step: average, measure, export; a checkpoint holds all of it."""
    t, run_dir = config.trainer, Path(config.run_dir)
    ema, pace = AdapterEMA(config.optim.ema_decay), Pace()
    callbacks: list[Callback] = [
        pace,
        SameStart(),
        StopOnNonFinite(),
        ReportUnreadable(run_dir, config.data.max_corrupt_share),
        ema,
        _KeepConfig(tree),
    ]
    if config.stage == "vae" and t.val_every_n_steps:
        callbacks.append(ReconstructionValidation(run_dir, config.callbacks))
    if isinstance(config.model, AlphaDiTConfig) and t.val_every_n_steps:
        callbacks.append(GenerationValidation(run_dir, config.callbacks, config.model.samples, config.data))
    callbacks.append(LastStep())
    if config.callbacks.progress:
        callbacks.append(StepProgress(config.data.num_frames))
    compiled = isinstance(config.model, AlphaDiTConfig) and config.model.frozen.compile
    if not compiled:  # what is compiled cannot be counted
        callbacks.append(Utilisation())
    callbacks.append(Export(run_dir, ema, getattr(torch, config.callbacks.export_dtype)))
    checkpoint = PeriodicCheckpoint(run_dir, t.checkpoint_every_n_steps, t.keep_checkpoints)
    return [*callbacks, checkpoint, StopOnSignal(checkpoint), Heartbeat(pace, t.heartbeat_s, t.timeout_s)]


def finish_wandb(loggers: list[Logger]) -> None:
    """End the W&B run, if there is one: the next run of this process, as in a sweep, would be written into it."""
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            logger.experiment.finish(exit_code=int(sys.exc_info()[0] is not None))


@rank_zero_only
def report_data(data: ClipDataModule | StoredLatentDataModule) -> None:
    """Say what there is to train on, and what had to be left out."""
    train, val = data.train_source, data.val_source
    frames = sum(clip.num_frames for clip in train.clips)
    say(f"data: {len(train)} training clips ({frames} frames), {len(val)} held out")
    if isinstance(data, ClipDataModule) and data.labels is not None:
        counts = np.bincount(data.labels, minlength=len(data.buckets))
        shapes = (f"{n} as {b.num_frames}x{b.size[0]}x{b.size[1]}" for n, b in zip(counts, data.buckets, strict=True))
        say(f"buckets: {', '.join(shapes)}")
    for problem in dict.fromkeys([*train.problems, *val.problems]):  # both splits are read from one place
        log.warning("left out: %s", problem)
