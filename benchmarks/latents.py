"""Samples per second from stored latents and embeddings against clips and captions encoded anew for every batch.

    python -m benchmarks.latents          # the sample clips and the tiny base

`inputs` is what the transformer takes: the batch read and collated, its normalised latents, and the embeddings of its
captions.  `step` is a whole training step: the same, then forward and backward through the transformer with its DoRA.
Both ways take turns, and a ratio is the median over turns of the ratio within a turn.  Seconds are those of the
process: other work on the machine counts less.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data_prep.encode import encode
from data_prep.encoder import Encoder, Options
from wan_alpha.data.dataset import collate
from wan_alpha.data.latents import LatentDataset, LatentSource, collate_latents
from wan_alpha.losses.draws import draw
from wan_alpha.models.dit import load_transformer
from wan_alpha.models.dit_adapters import add_dit_adapters
from wan_alpha.models.text import Prompts
from wan_alpha.stages.dit import AlphaDiTModule, DiTSettings

RESULTS = Path(__file__).parent / "results"
Batches = Callable[[], Any]


def batches(dataset: Any, together: Callable[[list[Any]], Any], size: int) -> Batches:
    """Gives the next batch of a data set's endless order each time it is called."""
    numbers = count()
    return lambda: together([dataset[next(numbers)] for _ in range(size)])


def inputs(module: AlphaDiTModule, batch: Any) -> tuple[Tensor, Prompts]:
    """What the transformer takes."""
    return module.latents(batch), module.prompts(batch)


def step(module: AlphaDiTModule, batch: Any) -> None:
    """Forward and backward."""
    z, prompts = inputs(module, batch)
    draws = draw(0, batch["index"], tuple(z.shape[1:]))
    module.losses(z, draws.noise, module.settings.timesteps.sample(draws.u), prompts).mean().backward()


def seconds(work: Callable[[Any], object], source: Batches, number: int) -> float:
    """CPU seconds of a batch."""
    start = time.process_time()
    for _ in range(number):
        work(source())
    return (time.process_time() - start) / number


def compare(work: Callable[[Any], object], sources: dict[str, Batches], args: argparse.Namespace) -> dict[str, Any]:
    """Samples per CPU second of both ways in turns; the first turn warms up."""
    turns = [{name: seconds(work, source, args.batches) for name, source in sources.items()}
             for _ in range(args.turns + 1)][1:]  # fmt: skip
    rates = {name: [args.batch / turn[name] for turn in turns] for name in sources}
    medians = {f"{name}_median": statistics.median(values) for name, values in rates.items()}
    return rates | medians | {"stored_over_on_the_fly": statistics.median(t["on_the_fly"] / t["stored"] for t in turns)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", default="assets/fluent-sample")
    parser.add_argument("--frames", type=int, default=5)
    parser.add_argument("--batch", type=int, default=8, help="samples in a batch")
    parser.add_argument("--batches", type=int, default=2, help="in a turn")
    parser.add_argument("--turns", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        options = Options(Path(args.root), Path(folder), variants=2, num_frames=args.frames, val_clips=4)
        start = time.process_time()
        manifest = encode(options)
        encoding = sum(manifest["samples"].values()) / (time.process_time() - start)
        encoder = Encoder(options, "cpu")
        transformer = load_transformer(options.base)
        add_dit_adapters(transformer, 32, 32)
        settings = DiTSettings(fold_padding=True)
        assert encoder.text is not None
        module = AlphaDiTModule(transformer, encoder.text, encoder.codec, settings, lambda parameters: None)  # type: ignore[arg-type, return-value]
        stored = LatentDataset(LatentSource(folder, "train", {}), 0)
        sources = {
            "stored": batches(stored, collate_latents, args.batch),
            "on_the_fly": batches(encoder.datasets["train"], collate, args.batch),
        }
        with torch.no_grad():
            rows = {"inputs": compare(lambda batch: inputs(module, batch), sources, args)}
        rows["step"] = compare(lambda batch: step(module, batch), sources, args)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    machine = {"device": "cpu", "torch": torch.__version__, "threads": torch.get_num_threads()}
    report = {"settings": vars(args), "commit": commit, "machine": machine, "unit": "samples per CPU second",
              **rows, "data_prep.encode": encoding}  # fmt: skip
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "latents_tiny_cpu.json").write_text(json.dumps(report, indent=2) + "\n")
    for name, row in rows.items():
        print(f"{name:7s} stored {row['stored_median']:8.1f}  on the fly {row['on_the_fly_median']:6.1f} samples/s"
              f"  (x{row['stored_over_on_the_fly']:.2f})")  # fmt: skip
    print(f"data_prep.encode {encoding:.1f} samples/s")


if __name__ == "__main__":
    main()
