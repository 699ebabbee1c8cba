"""Samples per second from stored latents against clips that are encoded anew for every batch.

    python -m benchmarks.latents          # the sample clips and the tiny base

Both go through the data set and to the normalised latent that stage=dit trains on; the transformer has no part in it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from data_prep.encode import encode
from data_prep.encoder import Encoder, Options
from wan_alpha.data.dataset import collate
from wan_alpha.data.latents import LatentDataset, LatentSource, collate_latents

RESULTS = Path(__file__).parent / "results"


def rate(batches: Iterator[Any], use: Callable[[Any], torch.Tensor], count: int, size: int) -> float:
    """Samples per CPU-second of `count` batches; two more warm up."""
    for _ in range(2):
        use(next(batches))
    start = time.process_time()
    for _ in range(count):
        use(next(batches))
    return count * size / (time.process_time() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", default="assets/fluent-sample")
    parser.add_argument("--frames", type=int, default=9)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--batches", type=int, default=6)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        options = Options(Path(args.root), Path(folder), variants=1, num_frames=args.frames, text=False, val_clips=4)
        start = time.process_time()
        manifest = encode(options)
        encoding = sum(manifest["samples"].values()) / (time.process_time() - start)
        stored = LatentDataset(LatentSource(folder, "train", {}), 0)
        encoder = Encoder(options, "cpu")
        fresh = encoder.datasets["train"]

        def stored_batches() -> Iterator[Any]:
            for first in range(0, 10**9, args.batch):
                yield collate_latents([stored[n] for n in range(first, first + args.batch)])

        def fresh_batches() -> Iterator[Any]:
            for first in range(0, 10**9, args.batch):
                yield collate([fresh[n] for n in range(first, first + args.batch)])

        rates = {
            "stored": rate(stored_batches(), lambda batch: batch["latent"], 20 * args.batches, args.batch),
            "on_the_fly": rate(fresh_batches(), encoder.codec.encode, args.batches, args.batch),
            "data_prep.encode": encoding,
        }
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    report = {"settings": vars(args), "commit": commit, "torch": torch.__version__, "samples_per_cpu_second": rates}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "latents_tiny_cpu.json").write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(rates, indent=2))


if __name__ == "__main__":
    main()
