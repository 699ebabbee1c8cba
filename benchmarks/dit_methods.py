"""The paper's generator and TransPixeler's paired tokens on equal data, base and steps: one table.

    python -m benchmarks.dit_methods [--out benchmarks/results/dit_methods] [--runs runs/dit_methods] [KEY=VALUE ...]

Trains both methods with every seed on `experiment=dit_methods` in this process, lets them answer `dit_prompts.yaml`,
and measures the videos with `evaluate.py task=generation`; what is finished is kept, and what was interrupted goes on.
A method first tries every learning rate in RATES with the first seed and keeps the one with the lower held-out loss,
which cannot be compared between methods: their latents differ.  A figure is a mean over the prompts; intervals are 95 %
t-intervals over the seeds.  The last column is what the figures say of the sample's own clips.  Writes OUT.md, OUT.json
and OUT.png.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import torch
from PIL import Image

from benchmarks.vae_methods import interval
from wan_alpha.command import validated
from wan_alpha.data.dataset import ClipDataset, collate
from wan_alpha.data.media import probe, read_frames
from wan_alpha.evaluating.config import EvaluateConfig
from wan_alpha.evaluating.entry import plain_arguments
from wan_alpha.evaluating.generators import make_videos
from wan_alpha.evaluating.reconstruct import to_frames
from wan_alpha.evaluating.run import evaluate
from wan_alpha.evaluation.figures import ARROWS, figure
from wan_alpha.evaluation.gallery import gallery, on_checkerboard
from wan_alpha.evaluation.generation import measure
from wan_alpha.evaluation.prompts import Prompt, load_prompts
from wan_alpha.training import run as training
from wan_alpha.training.build import build_module
from wan_alpha.training.config import RunConfig
from wan_alpha.training.data import low_high, open_source
from wan_alpha.training.entry import checked
from wan_alpha.training.identity import register_resolver
from wan_alpha.training.provenance import describe_environment

ROOT = Path(__file__).resolve().parents[1]
PROMPTS = Path("benchmarks/dit_prompts.yaml")
SEEDS = (0, 1, 2)
RATES = (1e-3, 2e-3)
STEPS, GUIDANCE = 20, 4.0
SHOWN = 4
"""Prompts of the picture: the first so many of each category."""


@dataclass(frozen=True)
class Method:
    """One row: its name for people, what it is trained with, and how `generators.NAME=` names its run."""

    title: str
    overrides: tuple[str, ...]
    system: str


METHODS = {
    "ours": Method("ours: DoRA on the RGBA VAE's latents", ("model.adapter.kind=dora",), "{run}"),
    "paired": Method("paired tokens: LoRA on an alpha half (TransPixeler)",
                     ("model.adapter.kind=paired", "model.vae_adapters=null"), "paired={run}"),
}  # fmt: skip


def composed(name: str, overrides: Sequence[str]) -> Any:
    """`conf/NAME.yaml` with overrides."""
    register_resolver()
    with hydra.initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return hydra.compose(name, list(overrides))


def place_of(method: str, seed: int, rate: float, runs: Path) -> Path:
    """The directory of a run."""
    return runs / f"{method}-lr{rate:g}-s{seed}"


def configure(
    method: str, seed: int, rate: float, runs: Path, extra: Sequence[str]
) -> tuple[RunConfig, dict[str, Any]]:
    """What a run is trained with."""
    settings = [f"seed={seed}", f"optim.lr={rate}", f"run_dir={place_of(method, seed, rate, runs)}"]
    fixed = ["experiment=dit_methods", *METHODS[method].overrides, *settings, "callbacks.progress=false"]
    return checked(composed("train", [*fixed, *extra]))


def kept(file: Path, make: Any) -> dict[str, Any]:
    """What `file` holds, or what `make()` gives, written there."""
    if not file.exists():
        found = make()
        file.write_text(json.dumps(found, indent=2) + "\n")
    return json.loads(file.read_text())


def train(method: str, seed: int, rate: float, runs: Path, extra: Sequence[str]) -> dict[str, Any]:
    """Held-out loss, parameters trained, what it saw, and CPU seconds; of an interrupted run those since it went on."""

    def run() -> dict[str, Any]:
        config, tree = configure(method, seed, rate, runs, extra)
        started = time.process_time()
        training.train(config, tree)
        return {
            "cpu_seconds": round(time.process_time() - started, 1),
            "loss": json.loads((Path(config.run_dir) / "metrics.json").read_text())["mean"]["val/loss"],
            "trained": sum(p.numel() for p in build_module(config).trainable().values()),
            "steps": config.trainer.max_steps,
            "batch": config.data.batch_size,
            "shape": [config.data.num_frames, *config.data.size],
        }

    return kept(place_of(method, seed, rate, runs) / "outcome.json", run)


def sample(config: EvaluateConfig, name: str, file: Path) -> float:
    """Make the videos of one system; CPU seconds per video, loading included, kept in `file`."""

    def run() -> dict[str, Any]:
        prompts = load_prompts(str(config.prompts))
        todo = [p for p in prompts if not (Path(config.out) / "videos" / name / f"{p.id}.mkv").exists()]
        started = time.process_time()
        make_videos(replace(config, generators={name: config.generators[name]}), prompts, Path(config.out))
        return {"cpu_seconds": round((time.process_time() - started) / max(1, len(todo)), 2)}

    return float(kept(file, run)["cpu_seconds"])


def answer(seed: int, rates: Mapping[str, float], runs: Path, shape: Sequence[int]) -> dict[str, Any]:
    """All methods of one seed, measured by evaluate.py: method -> figures, failures, CPU seconds per video."""
    out = runs / f"evaluation-s{seed}"

    def run() -> dict[str, Any]:
        systems = {m: spec.system.format(run=place_of(m, seed, rates[m], runs)) for m, spec in METHODS.items()}
        sampling = {"num_frames": shape[0], "height": shape[1], "width": shape[2], "num_inference_steps": STEPS,
                    "guidance_scale": GUIDANCE}  # fmt: skip
        given = ["task=generation", f"prompts={ROOT / PROMPTS}", f"seed={seed}", f"out={out}", "device=cpu"]
        given += [f"generators.{m}={system}" for m, system in systems.items()]
        given += [f"sampling.{key}={value}" for key, value in sampling.items()]
        config, tree = validated(composed("evaluate", plain_arguments(given)), EvaluateConfig)
        seconds = {name: sample(config, name, runs / f"sampling-{name}-s{seed}.json") for name in systems}
        evaluate(config, tree)
        summary = json.loads((out / "summary.json").read_text())
        return {
            name: {
                "figures": {f: e["mean"] for f, e in row.items()},
                "failed": {f: [e["failed"], e["count"]] for f, e in row.items() if e["failed"]},
                "cpu_seconds": seconds[name],
            }
            for name, row in summary["systems"].items()
        }

    runs.mkdir(parents=True, exist_ok=True)
    return kept(runs / f"evaluation-s{seed}.json", run)


def of_the_sample(config: RunConfig) -> dict[str, float]:
    """What the figures say of the clips themselves whose captions are asked for: means over them, NaN as they come."""
    asked = {p.id: p for p in load_prompts(str(ROOT / PROMPTS))}
    found: list[dict[str, float]] = []
    for split in ("train", "val"):
        source = open_source(config.data, split)
        size = (config.data.size[0], config.data.size[1])
        stride = low_high(config.data.frame_stride)
        dataset = ClipDataset(source, config.data.num_frames, size, config.seed, stride, augment=False)
        for n, clip in enumerate(source.clips):
            prompt: Prompt | None = asked.get(str(clip.meta.get("caption")).replace(" ", "-"))
            if prompt is not None:
                batch = collate([dataset[n]])
                found.append(measure(to_frames(batch["rgb"], batch["alpha"]), prompt)[0])
    return {name: float(np.mean([f[name] for f in found])) for name in found[0]} | {"clips": len(found)}


def table(answers: Sequence[dict[str, Any]], trained: Mapping[str, Sequence[dict[str, Any]]],
          sample: Mapping[str, float]) -> str:  # fmt: skip
    """Markdown: figures down, methods across, then what training and sampling cost."""
    names = list(next(iter(answers[0].values()))["figures"])
    lines = ["| | " + " | ".join(METHODS[m].title for m in trained) + " | *the sample's clips* |",
             "| --- |" + " ---: |" * (len(trained) + 1)]  # fmt: skip
    for name in names:
        found = figure(name)
        cells: dict[str, tuple[float, float] | None] = {}
        for m in trained:
            values = [a[m]["figures"][name] for a in answers]
            cells[m] = None if None in values else interval(values)
        sign = {"up": 1, "down": -1, "none": 0}[found.better]
        ranked = sorted((round(sign * c[0], found.digits) for c in cells.values() if c), reverse=True)
        shown = []
        for m, cell in cells.items():
            if cell is None:
                failed = [a[m]["failed"].get(name, (0, 0)) for a in answers]
                shown.append(f"NaN ({sum(f[0] for f in failed)} videos)")
                continue
            text = f"{cell[0]:.{found.digits}f}"
            text += f" ± {cell[1]:.{found.digits}f}" if len(answers) > 1 else ""
            best = sign and len(ranked) > 1 and round(sign * cell[0], found.digits) == ranked[0]
            shown.append(f"**{text}**" if best else text)
        heading = f"{found.heading} {ARROWS[found.better]}".strip()
        lines.append(f"| {heading} | {' | '.join(shown)} | {sample[name]:.{found.digits}f} |")
    for heading, cost in (
        ("trained parameters", [f"{outcomes[0]['trained'] / 1e6:.2f} M" for outcomes in trained.values()]),
        ("learning rate", [f"{outcomes[0]['rate']:g}" for outcomes in trained.values()]),
        (
            "CPU s of training",
            [f"{np.mean([o['cpu_seconds'] for o in outcomes]):.0f}" for outcomes in trained.values()],
        ),
        ("CPU s per video", [f"{np.mean([a[m]['cpu_seconds'] for a in answers]):.1f}" for m in trained]),
    ):
        lines.append(f"| {heading} | {' | '.join(cost)} | – |")
    return "\n".join(lines) + "\n"


def page(answers: Sequence[dict[str, Any]], trained: Mapping[str, Sequence[dict[str, Any]]],
         sample: Mapping[str, float]) -> str:  # fmt: skip
    """The table and what it says of itself."""
    first, count = next(iter(trained.values()))[0], len(load_prompts(str(ROOT / PROMPTS)))
    shape = "x".join(map(str, first["shape"]))
    spread = "mean over the prompts ± half a 95 % t-interval over the seeds; best mean in bold (intervals may overlap)"
    seeds = f"{len(answers)} seeds; {spread}" if len(answers) > 1 else "**one seed, so no interval**; best in bold"
    return (
        f"After {first['steps']} steps of {first['batch']} {shape} clips; {count} prompts, {STEPS} sampling steps, "
        f"guidance {GUIDANCE:g}; {seeds}.  Last column: the same figures of {sample['clips']} clips of the sample with "
        f"these captions.  `python -m benchmarks.dit_methods`\n\n{table(answers, trained, sample)}"
    )


def picture(folder: Path, title: str) -> Image.Image:
    """The middle frame of some prompts of every category, a row for each method, on a checkerboard."""
    prompts = load_prompts(str(ROOT / PROMPTS))
    categories = dict.fromkeys(p.category for p in prompts)
    chosen = [p for category in categories for p in [p for p in prompts if p.category == category][:SHOWN]]
    tiles, captions = [], []
    for method, prompt in itertools.product(METHODS, chosen):
        file = folder / method / f"{prompt.id}.mkv"
        rgba = torch.from_numpy(read_frames(file, count=probe(file).num_frames)).permute(3, 0, 1, 2).float() / 255
        tiles.append(on_checkerboard(rgba[:3] * 2 - 1, rgba[3:], 128))
        captions.append(f"{method}: {prompt.text} ({prompt.category})")
    pages = gallery(tiles, captions, columns=len(chosen), title=title)
    return Image.fromarray(pages[len(pages) // 2])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "dit_methods")
    parser.add_argument("--runs", type=Path, default=Path("runs/dit_methods"))
    parser.add_argument("--seeds", type=int, default=len(SEEDS), help="the first so many of 0, 1, 2")
    parser.add_argument("extra", nargs="*", help="further KEY=VALUE for every run, such as trainer.max_steps=4")
    given = parser.parse_args()
    losses = {m: {rate: train(m, SEEDS[0], rate, given.runs, given.extra)["loss"] for rate in RATES} for m in METHODS}
    rates = {m: min(tried, key=lambda rate: tried[rate]) for m, tried in losses.items()}
    trained: dict[str, list[dict[str, Any]]] = {m: [] for m in METHODS}
    answers = []
    for seed in SEEDS[: given.seeds]:  # seed by seed: an interrupted table is a smaller one, not a lopsided one
        for m, rate in rates.items():
            trained[m].append(train(m, seed, rate, given.runs, given.extra) | {"rate": rate})
        answers.append(answer(seed, rates, given.runs, trained["ours"][0]["shape"]))
    sample = of_the_sample(configure("ours", SEEDS[0], rates["ours"], given.runs, given.extra)[0])
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.with_suffix(".md").write_text(page(answers, trained, sample))
    about = {"losses": losses, "trained": trained, "answers": answers, "sample": sample,
             "environment": describe_environment()}  # fmt: skip
    given.out.with_suffix(".json").write_text(json.dumps(about, indent=2) + "\n")
    title = f"seed {SEEDS[0]}, {STEPS} steps, guidance {GUIDANCE:g}, nothing chosen"
    picture(given.runs / f"evaluation-s{SEEDS[0]}" / "videos", title).save(given.out.with_suffix(".png"), optimize=True)
    print(page(answers, trained, sample))


if __name__ == "__main__":
    main()
