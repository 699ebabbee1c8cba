"""What the framework costs: steps of stage=vae as a run does them, over the same steps in a plain loop.

    python -m benchmarks.overhead --device cuda                                  # Wan2.1's VAE, random weights
    python -m benchmarks.overhead --width 32 --rank 32 --size 64 --frames 9      # a small one on a CPU

Both train the same module on the same clips of the sample, with the same precision, optimiser and clipping.  The plain
loop has its batches on the device before it starts, and neither averages weights, logs nor looks for signals; the
framework does all of that, and brings batches to the device.  It loads them, too, with `--workers N`: on a CPU its
processes then share the cores with training.  They run in turns; a ratio is taken within a turn.

On a GPU choose a step that is computation: where the host can hardly issue operations as fast as the device does them,
the ratio is the host's noise (17 frames of 192x192, one clip, on a slow host: 0.94 to 1.18).
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import cycle, islice
from pathlib import Path
from typing import Any
from unittest import mock

import hydra
import pytorch_lightning as pl
import torch
from diffusers import AutoencoderKLWan
from pytorch_lightning.callbacks import Callback
from torch.utils.data import DataLoader, IterableDataset

from benchmarks.vae_step import FORMS
from wan_alpha.stages.vae import AlphaVAEModule
from wan_alpha.training import run
from wan_alpha.training.build import build_module
from wan_alpha.training.config import RunConfig
from wan_alpha.training.data import ClipDataModule
from wan_alpha.training.entry import checked
from wan_alpha.training.identity import register_resolver
from wan_alpha.training.precision import resolve_precision

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).parent / "results"
WARM_UP, BATCHES = 3, 4


def synchronize(device: str) -> None:
    """Wait for the device."""
    if device == "cuda":
        torch.cuda.synchronize()


class Clock(Callback):
    """Seconds of all steps after the first few, device work included."""

    def __init__(self, device: str) -> None:
        self.device, self.began, self.seconds = device, 0.0, 0.0

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step in (WARM_UP, trainer.max_steps):
            synchronize(self.device)
            self.began, self.seconds = time.perf_counter(), time.perf_counter() - self.began


class Kept(ClipDataModule):
    """The first few batches again and again, in memory: what is left is the framework, not the loader."""

    def train_dataloader(self) -> Any:
        batches = list(islice(super().train_dataloader(), BATCHES))
        return DataLoader(Endless(batches), batch_size=None, pin_memory=torch.cuda.is_available())


class Endless(IterableDataset):
    """Batches in turn, without end."""

    def __init__(self, batches: list[dict[str, Any]]) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return cycle(self.batches)


def configure(args: argparse.Namespace, folder: Path, name: str) -> tuple[RunConfig, dict[str, Any]]:
    """The run of this turn."""
    register_resolver()
    size = [args.size, args.size]
    overrides = [
        "stage=vae", "base=path", "base.name=random", f"base.path={folder / 'base'}", f"run_dir={folder / name}",
        f"trainer={'gpu' if args.device == 'cuda' else 'cpu'}", f"trainer.max_steps={WARM_UP + args.steps}",
        "trainer.val_every_n_steps=0", f"model.lora.rank={args.rank}", f"model.lora.alpha={args.rank}",
        f"data.size={size}", f"data.num_frames={args.frames}", f"data.batch_size={args.batch}",
        f"data.num_workers={args.workers or 0}", "loss.perceptual.every=1", "callbacks.progress=false",
    ]  # fmt: skip
    with hydra.initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return checked(hydra.compose("train", overrides))


def framework(args: argparse.Namespace, folder: Path, turn: int) -> float:
    """Seconds of a step of a run."""
    clock, build = Clock(args.device), run.build_callbacks
    with ExitStack() as changed:
        changed.enter_context(mock.patch.object(run, "build_callbacks", lambda *given: [*build(*given), clock]))
        if args.workers is None:
            changed.enter_context(mock.patch.object(run, "ClipDataModule", Kept))
        run.train(*configure(args, folder, f"run-{turn}"))
    return clock.seconds / args.steps


def plain(args: argparse.Namespace, folder: Path) -> float:
    """Seconds of a step of a loop."""
    config, _ = configure(args, folder, "plain")
    module = build_module(config)
    assert isinstance(module, AlphaVAEModule)
    module.to(args.device).train()
    loader = ClipDataModule(config.data, config.seed).rank_loader(0)
    batches = [{k: v.to(args.device) for k, v in b.items() if torch.is_tensor(v)} for b in islice(loader, BATCHES)]
    trained = list(module.trainable().values())
    optimiser = torch.optim.AdamW(trained, lr=1e-4)
    mixed = resolve_precision(config.trainer) == "bf16-mixed"
    for step, batch in zip(range(WARM_UP + args.steps), cycle(batches), strict=False):
        if step == WARM_UP:
            synchronize(args.device)
            began = time.perf_counter()
        with torch.autocast(args.device, torch.bfloat16, enabled=mixed):
            z = module.vae.encode(batch["rgb"], batch["alpha"], batch["background"], streaming=False)
            rgb, alpha = module.vae.decode(z, streaming=False)
            loss, _ = module.loss(rgb, alpha, batch["rgb"], batch["alpha"], batch["canvas"], turn=step)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, config.trainer.gradient_clip_val)
        optimiser.step()
        optimiser.zero_grad()
    synchronize(args.device)
    return (time.perf_counter() - began) / args.steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--width", type=int, default=96, help="base_dim; 96 is Wan2.1")
    parser.add_argument("--rank", type=int, default=128)
    parser.add_argument("--frames", type=int, default=17)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--workers", type=int, help="load the batches of the framework's steps in N processes")
    args = parser.parse_args()
    rows: dict[str, list[float]] = {"framework": [], "plain": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        z = FORMS["wan2.1"]["z_dim"]
        base = {"base_dim": args.width, "latents_mean": [0.0] * z, "latents_std": [1.0] * z, **FORMS["wan2.1"]}
        AutoencoderKLWan(**base).save_pretrained(folder / "base")
        for turn in range(args.turns):
            rows["framework"].append(framework(args, folder, turn))
            rows["plain"].append(plain(args, folder))
            print(f"turn {turn}: {rows['framework'][-1]:.4f} s a step, plain {rows['plain'][-1]:.4f} s", flush=True)
    ratios = [ours / theirs for ours, theirs in zip(rows["framework"], rows["plain"], strict=True)]
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    machine = torch.cuda.get_device_name() if args.device == "cuda" else f"{torch.get_num_threads()} CPU threads"
    report: dict[str, Any] = {"settings": vars(args), "commit": commit, "machine": machine, "torch": torch.__version__}
    report |= {"seconds": rows, "ratio": round(statistics.median(ratios), 4), "ratios": [round(r, 4) for r in ratios]}
    RESULTS.mkdir(exist_ok=True)
    loading = "" if args.workers is None else "_loading"
    name = f"overhead_w{args.width}_{args.batch}x{args.frames}x{args.size}{loading}_{args.device}.json"
    (RESULTS / name).write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
