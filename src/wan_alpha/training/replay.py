"""Take steps of a run again and compare: losses with metrics.csv, state with the next checkpoint."""

from __future__ import annotations

import csv
import json
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from rich.console import Console
from rich.markup import escape

from wan_alpha.command import validated
from wan_alpha.training.checkpoints import CHECKPOINT_DIR, AtomicCheckpointIO, CheckpointError, read_header
from wan_alpha.training.config import RunConfig
from wan_alpha.training.identity import differing_keys
from wan_alpha.training.metrics_csv import SPEED

CONSOLE = Console(highlight=False)
# Keys that came after runs were first recorded, with what they are without it.
SINCE: dict[str, Any] = {
    "data.global_batch": None,
    "data.only": [],
    "trainer.context_ranks": 1,
    "trainer.fuse_norms": False,
    "trainer.heartbeat_s": 60.0,
    "trainer.timeout_s": 1800.0,
    "logger.tensorboard": False,
    "cluster.gpu": None,
    "cluster.gpus": None,
    "cluster.gpus_per_node": 8,
    "cluster.network_gbit": 400.0,
    "cluster.mfu": 0.4,
    "cluster.price": None,
}


@dataclass(frozen=True)
class Difference:
    """One thing that was compared.

    Attributes:
        what: in words.
        size: the largest difference relative to the largest value; 0 is equal to the bit.
    """

    what: str
    size: float


def verify(run: str | Path, steps: int = 0, tolerance: float = 1e-4) -> bool:
    """Replay `steps` steps (0: up to the next checkpoint) of a run directory; print what was compared.

    Raises:
        CheckpointError: it is no run, there is nothing to compare with, or its data or base have changed.
    """
    run = Path(run)
    if not (run / "config.json").exists():
        raise CheckpointError(f"{run} is no run directory: it has no config.json")
    with tempfile.TemporaryDirectory(prefix="verify-") as folder:
        start, target = set_aside(run, Path(folder))
        first, until = _step(start), _step(target)
        last = min(first + steps, until) if steps else until
        header = read_header(target)
        which = f"steps {first + 1} to {last} of {run}, from {start.name if start else 'the start'}"
        CONSOLE.print(f"verify: {which}", markup=False, soft_wrap=True)
        copy = Path(folder) / "run"
        replay(json.loads((run / "config.json").read_text()), header, copy, start, last)
        found = list(compare(run, copy, target if last == until else None, first, last))
        taken = read_header(copy / CHECKPOINT_DIR / target_name(last))
        if differing := differing_keys(header["run_config"], taken["run_config"]):
            raise CheckpointError("the replay is of another run:\n  " + "\n  ".join(differing))
    if not found:
        raise CheckpointError(f"{run} logged none of the steps {first + 1} to {last}: give more with steps=N")
    for difference in found:
        word = "equal" if difference.size == 0 else f"differs by {difference.size:.1e}"
        mark = "[green]ok[/green]  " if difference.size <= tolerance else "[red]BAD[/red] "
        CONSOLE.print(f"{mark}{escape(difference.what)}: {word}")
    bad = sum(not difference.size <= tolerance for difference in found)
    CONSOLE.print(f"{len(found) - bad} of {len(found)} are the same within {tolerance:g}")
    return bad == 0


def set_aside(run: Path, folder: Path) -> tuple[Path | None, Path]:
    """Copies of the checkpoint to begin at (None: the start) and of that to arrive at; a running run deletes its own.

    Raises:
        CheckpointError: there is none to arrive at.
    """
    kept = sorted((run / CHECKPOINT_DIR).glob("step-*.ckpt"))[-2:]
    copies: list[Path] = []
    for path in kept:
        copy = folder / path.name
        try:
            shutil.copytree(path, copy) if path.is_dir() else shutil.copyfile(path, copy)
        except (FileNotFoundError, shutil.Error):
            raise CheckpointError(f"{path} has just been removed by the run itself: try again") from None
        copies.append(copy)
    if not copies:
        raise CheckpointError(f"{run} has no checkpoint yet: there is nothing to compare with")
    return (copies[0] if len(copies) > 1 else None), copies[-1]


def replay(tree: dict[str, Any], header: dict[str, Any], run_dir: Path, start: Path | None, last: int) -> None:
    """The run of a recorded configuration from a checkpoint to step `last`, on one device."""
    from wan_alpha.training.run import train

    recorded = header["run_config"]
    for key, value in SINCE.items():
        group, name = key.split(".")
        tree.setdefault(group, {}).setdefault(name, value)
    trainer, optim = tree["trainer"], tree["optim"]
    optim["schedule_steps"] = recorded["schedule steps"] or optim["schedule_steps"] or trainer["max_steps"]
    trainer |= {
        "devices": 1, "num_nodes": 1, "strategy": "auto", "context_ranks": 1, "precision": recorded["precision"],
        "max_steps": last, "val_every_n_steps": 0, "checkpoint_every_n_steps": last,
    }  # fmt: skip
    if not torch.cuda.is_available():
        trainer["accelerator"] = "cpu"
    tree["data"]["global_batch"] = recorded["global batch"]
    tree["logger"]["wandb"]["mode"] = "disabled"
    tree["logger"]["tensorboard"] = False
    tree |= {"run_dir": str(run_dir), "ckpt_path": None if start is None else str(start)}
    config, checked = validated(OmegaConf.create(tree), RunConfig)
    train(config, checked)


def compare(run: Path, copy: Path, target: Path | None, first: int, last: int) -> Iterator[Difference]:
    """Every row of metrics.csv that both have, and the state at the end, part by part."""
    before, now = _rows(run), _rows(copy)
    for step in range(first + 1, last + 1):
        if step not in before or step not in now:
            continue
        names = [n for n in before[step] if n.startswith("train/") and n in now[step] and n not in SPEED]
        sizes = [_relative(torch.tensor(before[step][n]), torch.tensor(now[step][n])) for n in names]
        if names:
            yield Difference(f"step {step}: {len(names)} columns of metrics.csv", max(sizes))
    if target is None:
        return
    read = AtomicCheckpointIO().load_checkpoint
    states = read(target), read(copy / CHECKPOINT_DIR / target_name(last))
    parts: dict[str, list[float]] = {}
    theirs, ours = (dict(_tensors(state)) for state in states)
    for name in sorted(theirs.keys() | ours.keys()):
        same_shape = name in theirs and name in ours and theirs[name].shape == ours[name].shape
        size = _relative(theirs[name], ours[name]) if same_shape else float("inf")
        parts.setdefault(name.split("/")[0], []).append(size)
    for part, sizes in parts.items():
        yield Difference(f"checkpoint of step {last}: {len(sizes)} tensors of {part}", max(sizes))


def target_name(step: int) -> str:
    return f"step-{step:08d}.ckpt"


def _step(checkpoint: Path | None) -> int:
    return 0 if checkpoint is None else int(checkpoint.stem.split("-")[-1])


def _rows(run: Path) -> dict[int, dict[str, float]]:
    file = run / "metrics.csv"
    if not file.exists():
        return {}
    with open(file, newline="") as table:
        return {int(row["step"]): {k: float(v) for k, v in row.items() if v} for row in csv.DictReader(table)}


def _tensors(state: dict[str, Any]) -> Iterator[tuple[str, torch.Tensor]]:
    """What was trained: weights, average, optimiser; by part and name."""
    for name, tensor in state["state_dict"].items():
        yield f"weights/{name}", tensor
    for key, callback in state["callbacks"].items():
        for name, tensor in callback.get("average", {}).items() if "AdapterEMA" in key else ():
            yield f"average/{name}", tensor
    for number, optimiser in enumerate(state["optimizer_states"]):
        for index, moments in optimiser["state"].items():
            for name, value in moments.items():
                yield f"optimiser/{number}/{index}/{name}", torch.as_tensor(value)


def _relative(a: torch.Tensor, b: torch.Tensor) -> float:
    """Largest difference over largest value."""
    a, b = a.double(), b.double()
    if torch.equal(a, b) or not a.numel():
        return 0.0
    size = float((a - b).abs().max() / a.abs().max().clamp_min(1e-30))
    return size if size == size else float("inf")  # NaN is no agreement
