"""Kill a process that reads the stream, twenty times at random; what was read must be what an undisturbed one reads.

    python -m benchmarks.resume

The process reads batches as training does and appends what it got to a file; like a run that saves after every step, it
goes on after the last complete line.  It is killed with SIGKILL.  Then the same batches are read as 1, 2 and 4 ranks
with 0, 1 and 4 workers each.  The counts go to benchmarks/results/resume.json.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import signal
import tempfile
import time
import zlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from pydantic import TypeAdapter
from rich.progress import track

from benchmarks.range_server import RangeServer
from wan_alpha.data.dataset import Batch
from wan_alpha.training.config import DataConfig
from wan_alpha.training.data import ClipDataModule

ROOT = Path(__file__).resolve().parents[1]
RESULT = Path(__file__).parent / "results" / "resume.json"
Settings = dict[str, Any]


def data_config(settings: Settings) -> DataConfig:
    """conf/data/common.yaml with `settings` on top."""
    common = yaml.safe_load((ROOT / "conf" / "data" / "common.yaml").read_text())
    root = None if "sources" in settings else common["root"]
    return TypeAdapter(DataConfig).validate_python(common | {"root": root} | settings)


class Forked(ClipDataModule):
    """Workers start in no time; nothing here has threads that a fork could harm."""

    start_method = "fork"


def line_of(number: int, batch: Batch) -> dict[str, Any]:
    """What is compared of a batch: which samples, of which clips, of which shape, and every bit of them."""
    tensors = (batch["rgb"], batch["alpha"], batch["background"], batch["canvas"])
    digests = [zlib.crc32(b"".join(t[i].numpy().tobytes() for t in tensors)) for i in range(len(batch["key"]))]
    shape = list(batch["rgb"].shape[2:])
    return {"batch": number, "index": batch["index"].tolist(), "key": batch["key"], "shape": shape, "crc32": digests}


def lines_of(log: Path) -> list[dict[str, Any]]:
    """The complete lines of a log."""
    return [json.loads(line) for line in log.read_text().split("\n")[:-1]] if log.exists() else []


def consume(settings: Settings, log: Path, total: int, linger: bool = False) -> None:
    """Go on after the last complete line until there are `total`; then stop, or wait to be killed."""
    torch.set_num_threads(1)
    done = len(lines_of(log))
    loader = Forked(data_config(settings), seed=1).rank_loader(done)
    with open(log, "ab", buffering=0) as file:
        for number, batch in enumerate(islice(loader, total - done), done):
            file.write((json.dumps(line_of(number, batch)) + "\n").encode())
    while linger:
        time.sleep(1)


def kill_and_continue(
    variants: list[Settings], log: Path, total: int, kills: int, seed: int, start_method: str
) -> list[int]:
    """Kill `consume` so many times at random places; each life has the next of the settings.  How far each came."""
    rng = random.Random(seed)
    places = sorted(rng.sample(range(total - 1), kills))
    context: Any = multiprocessing.get_context(start_method)
    if start_method == "forkserver":
        context.set_forkserver_preload(["benchmarks.resume"])
    survived = []
    for life, place in enumerate(track([*places, None], "killing")):
        arguments = (variants[life % len(variants)], log, total, place is not None)
        process = context.Process(target=consume, args=arguments)
        process.start()
        if place is None:
            process.join()
            break
        while process.is_alive() and (not log.exists() or log.read_bytes().count(b"\n") < place):
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.02))
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert process.exitcode == -signal.SIGKILL, f"it ended with {process.exitcode} before it was killed"
        survived.append(len(lines_of(log)))
    assert process.exitcode == 0
    return survived


class Difference(NamedTuple):
    """How a log departs from the reference."""

    repeated: int
    missing: int
    different: int


def compare(found: list[dict[str, Any]], reference: list[dict[str, Any]]) -> Difference:
    """Samples that came twice, did not come, or came with other content or at another place."""
    numbers = [n for line in found for n in line["index"]]
    expected = {n for line in reference for n in line["index"]}
    different = sum(a != b for a, b in zip(found, reference, strict=False)) + abs(len(found) - len(reference))
    return Difference(len(numbers) - len(set(numbers)), len(expected - set(numbers)), different)


def split_reading(settings: Settings, total: int, world: int, workers: int) -> Iterator[dict[str, Any]]:
    """The global batches as `world` ranks read them, put together again."""
    config = data_config(settings | {"num_workers": workers, "batch_size": settings["batch_size"] // world})
    loaders = [Forked(config, seed=1).rank_loader(0, rank, world) for rank in range(world)]
    for number, parts in enumerate(zip(*(islice(loader, total) for loader in loaders), strict=True)):
        lines = [line_of(number, part) for part in parts]
        whole = {name: [x for line in lines for x in line[name]] for name in ("index", "key", "crc32")}
        yield lines[0] | whole


def measure(
    variants: list[Settings], total: int, kills: int, split: int, start_method: str = "forkserver", seed: int = 0
) -> dict[str, Any]:
    """Everything; the result as it is published."""
    with tempfile.TemporaryDirectory() as folder:
        consume(variants[0], Path(folder) / "reference", total)
        reference = lines_of(Path(folder) / "reference")
        survived = kill_and_continue(variants, Path(folder) / "killed", total, kills, seed, start_method)
        killed = compare(lines_of(Path(folder) / "killed"), reference)
    splits = {}
    for world in (1, 2, 4):
        for workers in (0, 1, 4):
            found = list(split_reading(variants[0], split, world, workers))
            splits[f"{world} ranks, {workers} workers"] = compare(found, reference[:split])._asdict()
    return {
        "batches": total,
        "samples": sum(len(line["index"]) for line in reference),
        "clips": len({key for line in reference for key in line["key"]}),
        "shapes": sorted({tuple(line["shape"]) for line in reference}),
        "killed_after_batches": survived,
        "killed_and_continued": killed._asdict(),
        "split": splits,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, default=80)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--split-batches", type=int, default=6, help="compared for each number of ranks and workers")
    args = parser.parse_args()
    sample = ROOT / "assets" / "fluent-sample"
    with tempfile.TemporaryDirectory() as cache, RangeServer(sample) as server:
        settings: Settings = {
            "kind": "shards",
            "sources": [{"root": server.url, "weight": 2.0}, {"root": str(sample), "weight": 1.0}],
            "buckets": [{"num_frames": 5, "size": [32, 32]}, {"num_frames": 9, "size": [32, 32]}],
            "frame_stride": [1, 2],
            "batch_size": 4,
            "num_workers": 0,
            "cache_dir": cache,
        }
        variants = [settings | {"num_workers": workers} for workers in (0, 1, 4)]
        result = measure(variants, args.batches, args.kills, args.split_batches)
    command = f"python -m benchmarks.resume --batches {args.batches} --kills {args.kills}"
    RESULT.write_text(json.dumps({"command": command} | result, indent=2) + "\n")
    print(json.dumps({k: result[k] for k in ("killed_and_continued", "split")}, indent=2))


if __name__ == "__main__":
    main()
