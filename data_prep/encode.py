"""Step 6: clips and captions become latents and text embeddings, made once for stage=dit.

    python -m data_prep.encode root=SHARDS out=DIR base=tiny adapters=tiny [variants=4] [devices=cuda:0,cuda:1]
    python train.py stage=dit data=latents data.root=DIR

Sample n here is sample n of training on the fly with the same seed and data options: `variants` passes over the clips,
each with its own window, crop and background colour of the hard render.  Shards are written one by one and whole: the
same command goes on where it was, and encodes again only what no longer fits its key (base, adapters, window, caption).
Several devices share the shards; several machines give each its `part`.
"""

from __future__ import annotations

import json
import sys
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import asdict
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from rich.progress import track

from data_prep.cli import parse, told
from data_prep.encoder import DTYPES, Encoder, Job, Options
from data_prep.engine import end_with_parent
from data_prep.files import write_atomic
from wan_alpha.data.errors import DataError
from wan_alpha.data.latents import MANIFEST, SCHEMA_VERSION, LatentSource
from wan_alpha.data.source import SPLITS
from wan_alpha.lineage import Piece, folder_piece, log_lineage, write_lineage
from wan_alpha.models.adapters import locate_adapters
from wan_alpha.training.provenance import describe_environment


@lru_cache(maxsize=1)
def _encoder(options: Options, device: str) -> Encoder:
    if device == "cpu":
        torch.set_num_threads(1)  # processes are the parallelism
    return Encoder(options, device)


def _encode(options: Options, device: str, job: Job) -> str:
    """One shard, in a process of its own; the models stay loaded between shards."""
    _encoder(options, device).encode(job)
    return job.name


def encode(options: Options) -> dict[str, Any]:
    """Run the step and return the manifest.

    Raises:
        DataError: an option is out of its range, or the clips cannot be read.
    """
    check(options)
    options.out.mkdir(parents=True, exist_ok=True)
    devices = options.devices.split(",")
    encoder = Encoder(options, devices[0] if len(devices) == 1 else "cpu")
    jobs = encoder.jobs()
    mine = [job for number, job in enumerate(jobs) if number % options.parts == options.part]
    waiting = [job for job in mine if not encoder.is_done(job)]
    print(f"{len(jobs)} shards, {len(mine)} here, {len(mine) - len(waiting)} already done")
    if len(devices) == 1:
        for job in track(waiting, description="encode", disable=not waiting):
            encoder.encode(job)
    else:
        _in_processes(options, devices, waiting)
    return _finish(options, encoder, jobs)


def _in_processes(options: Options, devices: list[str], jobs: list[Job]) -> None:
    """One process for each device, the shards dealt out among them."""
    pools = [ProcessPoolExecutor(1, get_context("spawn"), end_with_parent) for _ in devices]
    try:
        futures: list[Future[str]] = [
            pools[number % len(pools)].submit(_encode, options, devices[number % len(pools)], job)
            for number, job in enumerate(jobs)
        ]
        for future in track(as_completed(futures), description="encode", total=len(futures), disable=not futures):
            future.result()
    finally:
        for pool in pools:
            pool.shutdown(cancel_futures=True)


def _finish(options: Options, encoder: Encoder, jobs: list[Job]) -> dict[str, Any]:
    """Write the manifest once every part is there; shards of an earlier, larger run are removed."""
    missing = [job.name for job in jobs if options.parts > 1 and not encoder.is_done(job)]
    shards = {split: [job.name for job in jobs if job.split == split] for split in SPLITS}
    manifest = {"version": SCHEMA_VERSION, "identity": encoder.identity, "shards": shards}
    manifest["options"] = {k: str(v) if isinstance(v, Path) else v for k, v in asdict(options).items()}
    manifest["samples"] = {split: sum(j.last - j.first for j in jobs if j.split == split) for split in SPLITS}
    manifest["missing"] = missing
    if missing:
        return manifest
    for old in options.out.glob("*-*.safetensors"):
        if old.name not in {job.name for job in jobs}:
            old.unlink()
    write_atomic(options.out / MANIFEST, (json.dumps(manifest, indent=2) + "\n").encode())
    note_lineage(options, encoder)
    return manifest


def note_lineage(options: Options, encoder: Encoder) -> None:
    """`lineage.json`, and artifacts at Weights & Biases if that is asked for."""
    used = [Piece("data", encoder.datasets["train"].source.manifest_hash)]
    if options.adapters is not None:
        used.append(folder_piece("vae-adapters", locate_adapters(options.adapters)))
    made = [Piece("latents", LatentSource(options.out, "train", {}).manifest_hash)]
    write_lineage(options.out, made, used)
    if options.wandb == "disabled":
        return
    import wandb

    settings = {k: str(v) if isinstance(v, Path) else v for k, v in asdict(options).items()}
    run = wandb.init(
        project=options.project, name=options.out.name, dir=options.out, mode=options.wandb,  # type: ignore[arg-type]
        job_type="encode", config=settings | {"code": describe_environment()["git"]},
    )  # fmt: skip
    log_lineage(run, made, used, options.wandb == "offline")
    run.finish()


def check(options: Options) -> None:
    """Options that make no sense, in sentences."""
    allowed = {
        "dtype": DTYPES,
        "captions": ("composed", "plain"),
        "task": ("t2v", "i2v"),
        "stills": ("smooth", "integer", "static"),
        "wandb": ("disabled", "offline", "online"),
    }
    for name, values in allowed.items():
        if getattr(options, name) not in values:
            raise DataError(f"{name}={getattr(options, name)}: expected one of {', '.join(values)}")
    if not 0 <= options.part < options.parts:
        raise DataError(f"part={options.part}: expected 0 to {options.parts - 1}, as parts={options.parts}")


def main(arguments: list[str]) -> None:
    """The command line."""
    options = parse(Options, arguments, "python -m data_prep.encode")
    with told():
        manifest = encode(options)
    if manifest["missing"]:
        print(f"{len(manifest['missing'])} shards of other parts are missing; the last part to end writes {MANIFEST}")
        return
    samples = ", ".join(f"{count} {split}" for split, count in manifest["samples"].items())
    print(f"{samples} samples in {options.dtype} -> {options.out}")


if __name__ == "__main__":
    main(sys.argv[1:])
