"""What faults and the precautions against them cost: stall of a checkpoint, way back after a kill, waiting for data.

    python -m benchmarks.faults [--steps N] [--only stall sharded kill starvation]

Runs of `stage=vae base=tiny data=sample`, with the defaults but for the numbers of steps and of loader processes.

Stall: seconds that training stands still for each checkpoint, with its flush to the disk, beside the median step.
Sharded: the same for two ranks with FSDP2 on gloo, on small clips (a checkpoint is no smaller for them);
there training stands still for the copy, and for what is left of the write before. The seconds are rank 0's.
Kill: `train.py` is killed with SIGKILL between two checkpoints and started again at once; seconds from the kill until
the interpreter has imported everything, until training starts, and until the first step (one that had been done) is
done again.  What lies before the end of the imports is Python's, torch's and Lightning's; the rest is ours and the
first step.
Starvation: share of wall time that the training process waits for its next batch, as `train/data_wait` says; the first
interval, in which loader processes start, apart.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULT = Path(__file__).parent / "results" / "faults.json"
QUIET = ["stage=vae", "trainer.val_every_n_steps=0", "callbacks.panels=false", "callbacks.lpips=null"]


def child(notes: Path, overrides: list[str]) -> None:
    """One run that notes when it has come how far, in seconds since the epoch."""
    import hydra
    import pytorch_lightning as pl

    from wan_alpha.training import run
    from wan_alpha.training.entry import checked
    from wan_alpha.training.identity import register_resolver

    speaks = os.environ.get("RANK", "0") == "0"
    file = open(notes if speaks else os.devnull, "a", buffering=1)  # noqa: SIM115  # until the process is killed

    def note(what: str, **values: float) -> None:
        file.write(json.dumps({"what": what, "at": time.time(), **values}) + "\n")

    note("imported")

    class Notes(pl.Callback):
        def on_train_start(self, trainer: pl.Trainer, *_: Any) -> None:
            note("training", step=trainer.global_step)

        def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
            note("step", step=trainer.global_step)

    build, save = run.build_callbacks, run.PeriodicCheckpoint.save

    def timed_save(self: Any, trainer: pl.Trainer) -> None:
        began = time.perf_counter()
        save(self, trainer)
        note("saved", step=trainer.global_step, seconds=time.perf_counter() - began)

    run.PeriodicCheckpoint.save = timed_save  # type: ignore[method-assign]
    run.build_callbacks = lambda *args: [Notes(), *build(*args)]
    register_resolver()
    with hydra.initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config, tree = checked(hydra.compose("train", overrides))
    run.train(config, tree)


def start(notes: Path, overrides: list[str], ranks: int = 1) -> subprocess.Popen[bytes]:
    """`child` in a process of its own, or in several."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"] if ranks > 1 else []
    command = [sys.executable, *torchrun, "-m", "benchmarks.faults", "--child", str(notes), *overrides]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)


def read(notes: Path, what: str) -> list[dict[str, Any]]:
    """All notes of one kind."""
    lines = notes.read_text().split("\n")[:-1] if notes.exists() else []
    return [note for note in map(json.loads, lines) if note["what"] == what]


def finish(notes: Path, overrides: list[str], ranks: int = 1) -> None:
    """A run to its end."""
    code = start(notes, overrides, ranks).wait()
    assert code == 0, f"{overrides} ended with {code}"


SHARDED = [
    "trainer.strategy=fsdp", "trainer.accelerator=cpu", "trainer.devices=2", "trainer.precision=32-true",
    "data.size=[32,32]", "data.num_frames=5", "data.batch_size=1", "data.num_workers=0", "trainer.threads=1",
]  # fmt: skip


def stall(folder: Path, steps: int, every: int, ranks: int = 1) -> dict[str, Any]:
    """Seconds of each save but the last, which is the export's; and of a step."""
    notes, run_dir = folder / f"stall-{ranks}", folder / f"stall-run-{ranks}"
    rhythm = [f"run_dir={run_dir}", f"trainer.max_steps={steps}", f"trainer.checkpoint_every_n_steps={every}"]
    finish(notes, [*QUIET, *rhythm, *(SHARDED if ranks > 1 else [])], ranks)
    saved = [note["seconds"] for note in read(notes, "saved")][:-1]
    ends = [note["at"] for note in read(notes, "step")]
    kept = max((run_dir / "checkpoints").glob("step-*.ckpt"))
    size = sum(file.stat().st_size for file in ([kept] if kept.is_file() else kept.iterdir()))
    between = statistics.median(b - a for a, b in itertools.pairwise(ends))
    return {
        "checkpoint_bytes": size,
        "saves": len(saved),
        "seconds_per_save_median": round(statistics.median(saved), 4),
        "seconds_per_save_max": round(max(saved), 4),
        "seconds_per_step_median": round(between, 4),
        "share_of_time_at_every_100_steps": round(statistics.median(saved) / (100 * between), 5),
    }


def kill(folder: Path) -> dict[str, Any]:
    """From SIGKILL to the first step that is done again."""
    notes, run_dir = folder / "first", folder / "kill-run"
    command = [*QUIET, f"run_dir={run_dir}", "trainer.max_steps=1000", "trainer.checkpoint_every_n_steps=4"]
    process = start(notes, command)
    while not any(note["step"] == 6 for note in read(notes, "step")):
        assert process.poll() is None, "it ended by itself"
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    killed = time.time()
    process.wait()
    again = start(folder / "second", command)
    while not read(folder / "second", "step"):
        assert again.poll() is None, "it ended by itself"
        time.sleep(0.01)
    again.kill()
    again.wait()
    (begun,), (imported,) = read(folder / "second", "training"), read(folder / "second", "imported")
    step = read(folder / "second", "step")[0]
    reached = max(note["step"] for note in read(notes, "step"))
    assert begun["step"] == 4, begun
    assert step["step"] == 5, step
    return {
        "killed_after_step": reached,
        "first_repeated_step": step["step"],
        "seconds_to_imported": round(imported["at"] - killed, 2),
        "seconds_from_imported_to_training": round(begun["at"] - imported["at"], 2),
        "seconds_of_the_first_step": round(step["at"] - begun["at"], 2),
        "seconds_in_all": round(step["at"] - killed, 2),
    }


def starvation(folder: Path, steps: int, workers: int) -> dict[str, Any]:
    """Share of time that is spent waiting for data, by interval of ten steps."""
    run_dir = folder / f"wait-{workers}"
    numbers = [f"trainer.max_steps={steps}", "trainer.log_every_n_steps=10", f"data.num_workers={workers}"]
    finish(folder / f"wait-notes-{workers}", [*QUIET, f"run_dir={run_dir}", *numbers])
    with open(run_dir / "metrics.csv", newline="") as file:
        shares = [float(row["train/data_wait"]) for row in csv.DictReader(file) if row["train/data_wait"]]
    later = shares[1:]
    return {
        "first_interval": round(shares[0], 4),
        "later_mean": round(statistics.mean(later), 4),
        "later_max": round(max(later), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--only", nargs="+", choices=("stall", "sharded", "kill", "starvation"), help="default: all")
    args = parser.parse_args()
    if args.child:
        child(Path(args.child[0]), args.child[1:])
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        measures = {
            "stall": lambda: stall(folder, args.steps, 5),
            "sharded": lambda: stall(folder, args.steps, 5, ranks=2),
            "kill": lambda: kill(folder),
            "starvation": lambda: {f"{n} workers": starvation(folder, args.steps, n) for n in (0, 1)},
        }
        result = json.loads(RESULT.read_text()) if RESULT.exists() else {}
        for measure in args.only or measures:
            how = {
                "command": f"python -m benchmarks.faults --steps {args.steps} --only {measure}",
                "cores": os.cpu_count(),
                "load_before": round(os.getloadavg()[0], 1),
            }
            result[measure] = how | measures[measure]()
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
