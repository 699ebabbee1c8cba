"""Weak scaling: the same batch on every rank, one rank and two; and what 1,024 would make of it.

    python -m benchmarks.scaling [--steps 12] [--out benchmarks/results/scaling.json]      # and scaling.png beside it

Measured, with stage=vae on the tiny base and the sample clips, one thread for each rank:

- `alone`: one rank,
- `apart`: two runs of one rank at the same time, which share the machine and nothing else,
- `ddp` and `fsdp`: two ranks of one run.

apart / alone is what two processes cost each other (memory, caches, whoever else is busy); ddp / apart is the
communication; the share of time between the end of a step and its next batch is the data's, and all callbacks'.
Ratios only: they are of this machine, and of whoever else was busy on it.

Simulated: the reduction of the gradients from declared bandwidths (`CLUSTER`), not overlapped with anything; and a step
of n ranks as that of the slowest of n, drawn from the steps that were measured alone.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

ROOT = Path(__file__).resolve().parents[1]
ARGUMENTS = [
    "stage=vae", "trainer.threads=1", "trainer.precision=32-true", "trainer.val_every_n_steps=0",
    "trainer.checkpoint_every_n_steps=1000", "trainer.log_every_n_steps=50", "callbacks.progress=false",
    "data.batch_size=2", "data.num_workers=1",
]  # fmt: skip
WAYS = {
    "alone": (1, 1, "auto"),  # runs at the same time, ranks of each, strategy
    "apart": (2, 1, "auto"),
    "ddp": (1, 2, "ddp"),
    "fsdp": (1, 2, "fsdp"),
}
CLUSTER = {"ranks per node": 8, "GB/s within a node": 300.0, "GB/s between nodes, each rank": 40.0, "latency, s": 2e-5}
"""Declared, not measured: NVLink and 400 Gbit/s for each GPU, at some 80 % of their names."""
STAGES = {
    # trained parameters in float32, and seconds of a step on one rank: declared, see `python train.py ... plan=true`
    "wan_alpha_v1_vae": {"parameters": 96e6, "seconds": 1.5},
    "wan_alpha_v1_dit": {"parameters": 115e6, "seconds": 60.0},
}
RANKS = (1, 2, 8, 64, 256, 1024)
WARM_UP = 3
BUSY = "others were using the machine: ratios of step times, and the slowest rank, hold them, too; measure again"


class Clock(Callback):
    """Seconds from the end of one step to the next batch, and of the step itself."""

    def __init__(self, file: Path) -> None:
        self.file, self.ended, self.began = file, 0.0, 0.0
        self.rows: list[tuple[float, float]] = []

    def on_train_batch_start(self, *_: Any) -> None:
        self.began = time.perf_counter()

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        now = time.perf_counter()
        if self.ended:
            self.rows.append((self.began - self.ended, now - self.began))
        self.ended = now

    def on_train_end(self, *_: Any) -> None:
        self.file.write_text(json.dumps(self.rows))


def worker(file: str, overrides: list[str]) -> None:
    """One rank of one run, with a clock."""
    import hydra

    from wan_alpha.training import run
    from wan_alpha.training.entry import checked
    from wan_alpha.training.identity import register_resolver

    register_resolver()
    build = run.build_callbacks
    run.build_callbacks = lambda *args: [*build(*args), Clock(Path(file))]
    with hydra.initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        run.train(*checked(hydra.compose("train", overrides)))


def measure(way: str, steps: int, folder: Path) -> list[tuple[float, float]]:
    """(waiting, step) seconds of every timed step of every rank."""
    runs, ranks, strategy = WAYS[way]
    processes, files = [], []
    for number in range(runs):
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            port = listener.getsockname()[1]
        for rank in range(ranks):
            place = {
                "RANK": str(rank), "LOCAL_RANK": str(rank), "GROUP_RANK": "0", "WORLD_SIZE": str(ranks),
                "LOCAL_WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
                "TORCHELASTIC_RUN_ID": "scaling",
            }  # fmt: skip
            env = {**os.environ, "OMP_NUM_THREADS": "1"} | (place if ranks > 1 else {})
            files.append(folder / f"{way}-{number}-{rank}.json")
            words = [*ARGUMENTS, f"run_dir={folder / way}-{number}", f"trainer.max_steps={steps + WARM_UP}"]
            words += [f"trainer.strategy={strategy}", f"trainer.devices={ranks}"]
            command = [sys.executable, "-m", "benchmarks.scaling", "--worker", str(files[-1]), *words]
            processes.append(subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.DEVNULL))
    if any(process.wait() for process in processes):
        sys.exit(f"{way}: a process failed, see above")
    return [tuple(row) for file in files for row in json.loads(file.read_text())[WARM_UP - 1 :]]


def reduction(parameters: float, ranks: int) -> float:
    """Seconds of a ring all-reduce of float32 gradients: within each node, then between nodes for a slice each."""
    within = min(ranks, int(CLUSTER["ranks per node"]))
    nodes = -(-ranks // within)
    size = 4 * parameters
    inside = 2 * (within - 1) / within * size / (CLUSTER["GB/s within a node"] * 1e9)
    between = 2 * (nodes - 1) / nodes * size / within / (CLUSTER["GB/s between nodes, each rank"] * 1e9)
    return inside + between + 2 * (within - 1 + nodes - 1) * CLUSTER["latency, s"]


def slowest(steps: list[float], ranks: int) -> float:
    """The expected longest of `ranks` steps, drawn from those that were measured."""
    ordered, count = sorted(steps), len(steps)
    return sum(t * (((n + 1) / count) ** ranks - (n / count) ** ranks) for n, t in enumerate(ordered))


def simulate(steps: list[float], stage: dict[str, float], ranks: int) -> dict[str, float]:
    """Step time of `ranks` over that of one: for the reduction alone, and with waiting for the slowest."""
    reduced = reduction(stage["parameters"], ranks) / stage["seconds"]
    late = slowest(steps, ranks) / slowest(steps, 1)
    return {"reduction": round(1 + reduced, 3), "and the slowest rank": round(late + reduced, 3)}


def draw(result: dict[str, Any], file: Path) -> None:
    """Left what was measured, right what the simulation makes of it."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    apart, ddp, fsdp = result["ratio of step times"].values()
    times = {"alone": 1.0, "two apart": apart, "two, DDP": apart * ddp, "two, FSDP2": apart * fsdp}
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), constrained_layout=True)
    bars = left.bar(list(times), list(times.values()), color=["#9aa5b1", "#9aa5b1", "#3b6fb6", "#3b6fb6"])
    left.bar_label(bars, fmt="%.2f")
    left.set(
        title="measured: a rank's step time on two cores",
        ylabel="times one rank alone",
        ylim=(0, 1.15 * max(times.values())),
    )
    for (stage, rows), colour in zip(
        result["simulated step time, n ranks to 1"].items(), ("#3b6fb6", "#c8553d"), strict=True
    ):
        for what, style in (("reduction", "-"), ("and the slowest rank", "--")):
            label = f"{stage.removeprefix('wan_alpha_')}: {what}"
            right.plot(
                [int(n) for n in rows],
                [row[what] for row in rows.values()],
                style,
                marker=".",
                color=colour,
                label=label,
            )
    right.set(title="simulated: more ranks", xlabel="ranks", ylabel="times the step of one", xscale="log")
    right.set_xticks([int(n) for n in rows], list(rows))
    right.set_ylim(0.98)
    right.minorticks_off()
    right.legend(fontsize=8, frameon=False)
    figure.savefig(file, dpi=110)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--out", default=str(ROOT / "benchmarks" / "results" / "scaling.json"))
    options = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        timed = {way: measure(way, options.steps, Path(folder)) for way in WAYS}
    middle = {way: statistics.median(step for _, step in rows) for way, rows in timed.items()}
    waiting = {way: sum(wait for wait, _ in rows) / sum(map(sum, rows)) for way, rows in timed.items()}
    alone = [step for _, step in timed["alone"]]
    result = {
        "command": f"python -m benchmarks.scaling --steps {options.steps}",
        "cores": os.cpu_count(),
        "load before": round(load, 1),
        "note": BUSY if load > 0.5 else "",
        "ratio of step times": {
            "two runs apart to one alone": round(middle["apart"] / middle["alone"], 3),
            "ddp to two apart (communication)": round(middle["ddp"] / middle["apart"], 3),
            "fsdp to two apart (communication and slices)": round(middle["fsdp"] / middle["apart"], 3),
        },
        "share of time waiting for data": {way: round(share, 4) for way, share in waiting.items()},
        "spread of a step, alone: slowest to median": round(max(alone) / statistics.median(alone), 3),
        "simulated step time, n ranks to 1": {
            name: {str(n): simulate(alone, stage, n) for n in RANKS} for name, stage in STAGES.items()
        },
        "declared": {"cluster": CLUSTER, "stages": STAGES},
    }
    text = json.dumps(result, indent=2) + "\n"
    Path(options.out).write_text(text)
    draw(result, Path(options.out).with_suffix(".png"))
    print(text)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        worker(sys.argv[2], sys.argv[3:])
    else:
        main()
