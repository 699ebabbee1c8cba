"""Every method on equal data, base and steps, its VAE and its generator: one table.

    python -m benchmarks.methods [--out benchmarks/results/methods] [--runs runs/methods] [--seeds 3] [KEY=VALUE ...]

Trains the RGBA VAE of every method on `experiment=vae_methods` and, on the latents of that VAE of the same seed, its
generator on `experiment=dit_methods`; lets the generators answer `methods_prompts.yaml`, and measures the videos with
`evaluate.py task=generation`.  All in this process, one after the other; what is finished is kept, and what was
interrupted goes on.  With the first seed, a VAE tries the learning rates in VAE_RATES and keeps that with the best sum
of alpha and soft PSNR, a generator those in DIT_RATES and keeps that with the lowest held-out loss, which cannot be
compared between methods: their latents differ.  KEY=VALUE goes to every run; runs that are there with others are
refused.  Writes OUT.md, OUT.json and OUT.png.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import torch

from benchmarks.methods_table import Results, page, picture
from wan_alpha.baselines.paired_tokens import PairedCodec
from wan_alpha.command import validated
from wan_alpha.data.dataset import ClipDataset, collate
from wan_alpha.evaluating.config import EvaluateConfig
from wan_alpha.evaluating.entry import plain_arguments
from wan_alpha.evaluating.generators import make_videos
from wan_alpha.evaluating.reconstruct import to_frames
from wan_alpha.evaluating.run import evaluate
from wan_alpha.evaluation.generation import measure
from wan_alpha.evaluation.metrics import RGBAMetrics
from wan_alpha.evaluation.prompts import load_prompts
from wan_alpha.models.base import load_vae
from wan_alpha.training import run as training
from wan_alpha.training.build import build_module
from wan_alpha.training.config import RunConfig
from wan_alpha.training.data import ClipDataModule, low_high, open_source
from wan_alpha.training.entry import checked
from wan_alpha.training.identity import register_resolver
from wan_alpha.training.precision import resolve_precision
from wan_alpha.training.provenance import describe_environment

ROOT = Path(__file__).resolve().parents[1]
PROMPTS = ROOT / "benchmarks" / "methods_prompts.yaml"
SEEDS = (0, 1, 2)
VAE_RATES = {"wan_alpha": (2e-3,), "alphavae": (2e-3, 5e-4), "layerdiffuse": (2e-3,)}
"""By architecture.  The stage's own; whole VAEs usually want less than adapters."""
DIT_RATES = (1e-3, 2e-3)
STEPS, GUIDANCE = 20, 4.0


@dataclass(frozen=True)
class Method:
    """One row.

    Attributes:
        title: for people.
        vae: the architecture of its RGBA VAE (`model=`); None: the base's VAE as it is, spent twice.
        loss: what its VAE is trained with.
        generator: what its generator is trained with; None: it has none.
        system: what `generators.NAME=` calls it.
    """

    title: str
    vae: str | None
    loss: tuple[str, ...] = ()
    generator: tuple[str, ...] | None = ()
    system: str = "rgba_vae={run}"


OURS, PAIRED = "ours", "paired"
METHODS = {
    "naive": Method("ours, naive: no renders", "wan_alpha", ("loss.render=none",), None),
    OURS: Method("ours, + soft and hard renders", "wan_alpha"),
    "prior": Method("ours, + renders + diffusion prior", "wan_alpha", ("loss.prior.weight=0.1",), None),
    "four_channel": Method("four channels (AlphaVAE)", "alphavae"),
    "latent_offset": Method("latent offset (LayerDiffuse)", "layerdiffuse"),
    PAIRED: Method("paired tokens (TransPixeler)", None, (), ("model.adapter.kind=paired", "model.vae_adapters=null"),
                   "paired={run}"),
}  # fmt: skip
FIRST = {"wan_alpha": OURS, "alphavae": "four_channel", "layerdiffuse": "latent_offset"}
"""The row with which an architecture tries its learning rates."""
GENERATORS = [name for name, method in METHODS.items() if method.generator is not None]


@dataclass(frozen=True)
class Bench:
    """Where runs lie, and what every one of them is given."""

    runs: Path
    extra: tuple[str, ...] = ()

    def vae(self, name: str, seed: int, rate: float) -> Path:
        """The run directory of a method's VAE."""
        return self.runs / f"vae-{name}-lr{rate:g}-s{seed}"

    def dit(self, name: str, seed: int, rate: float) -> Path:
        """The run directory of a method's generator."""
        return self.runs / f"dit-{name}-lr{rate:g}-s{seed}"

    def vae_config(self, name: str, seed: int, rate: float) -> tuple[RunConfig, dict[str, Any]]:
        """What a method's VAE is trained with."""
        method = METHODS[name]
        given = ["stage=vae", f"model={method.vae}", "experiment=vae_methods", *method.loss]
        return self._config([*given, f"seed={seed}", f"optim.lr={rate}", f"run_dir={self.vae(name, seed, rate)}"])

    def dit_config(self, name: str, seed: int, rate: float, vae: Path | None) -> tuple[RunConfig, dict[str, Any]]:
        """What a method's generator is trained with, on the latents of the VAE that the run `vae` has trained."""
        latents = [] if vae is None else [f"model.vae_adapters={vae}"]
        given = ["experiment=dit_methods", *latents, *(METHODS[name].generator or ())]
        return self._config([*given, f"seed={seed}", f"optim.lr={rate}", f"run_dir={self.dit(name, seed, rate)}"])

    def _config(self, given: Sequence[str]) -> tuple[RunConfig, dict[str, Any]]:
        return checked(composed("train", [*given, "callbacks.progress=false", *self.extra]))


def composed(name: str, overrides: Sequence[str]) -> Any:
    """`conf/NAME.yaml` with overrides."""
    register_resolver()
    with hydra.initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return hydra.compose(name, list(overrides))


def kept(file: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `file` holds, or what `make()` gives, written there."""
    if not file.exists():
        found = make()
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(found, indent=2) + "\n")
    return json.loads(file.read_text())


def same_keys(bench: Bench) -> None:
    """What is finished was made with the same KEY=VALUE, or is refused."""
    before = kept(bench.runs / "given.json", lambda: {"given": sorted(bench.extra)})["given"]
    if before != sorted(bench.extra):
        raise SystemExit(
            f"{bench.runs} holds runs that were made with {' '.join(before) or 'no KEY=VALUE'}, not with "
            f"{' '.join(bench.extra) or 'none'}; give the same, or another --runs"
        )


def train(config: RunConfig, tree: dict[str, Any]) -> dict[str, Any]:
    """One run, or what it left when it ran before: means over clips, what was trained on what, CPU seconds.

    Of an interrupted run these are the seconds since it went on.
    """

    def run() -> dict[str, Any]:
        started = time.process_time()
        training.train(config, tree)
        metrics = json.loads((Path(config.run_dir) / "metrics.json").read_text())
        return {
            "cpu_seconds": round(time.process_time() - started, 1),
            "mean": metrics["mean"],
            "clips": len(metrics.get("clips", ())),
            "trained": sum(p.numel() for p in build_module(config).trainable().values()),
            "rate": config.optim.lr,
            "steps": config.trainer.max_steps,
            "batch": config.data.batch_size,
            "shape": [config.data.num_frames, *config.data.size],
        }

    return kept(Path(config.run_dir) / "outcome.json", run)


def quality(outcome: dict[str, Any]) -> float:
    """What a VAE's learning rate is chosen by."""
    return outcome["mean"]["ours"]["alpha/psnr"] + outcome["mean"]["ours"]["soft/psnr"]


def choose_vae_rates(bench: Bench) -> dict[str, dict[float, float]]:
    """Architecture -> learning rate -> `quality` of the first seed."""
    return {
        model: {rate: quality(train(*bench.vae_config(name, SEEDS[0], rate))) for rate in VAE_RATES[model]}
        for model, name in FIRST.items()
    }


def choose_dit_rates(bench: Bench, vaes: Mapping[str, Path | None]) -> dict[str, dict[float, float]]:
    """Method -> learning rate -> held-out loss of the first seed."""
    return {
        name: {rate: train(*bench.dit_config(name, SEEDS[0], rate, vaes[name]))["mean"]["val/loss"]
               for rate in DIT_RATES}
        for name in GENERATORS
    }  # fmt: skip


def sample(config: EvaluateConfig, name: str, file: Path) -> float:
    """Make the videos of one system; CPU seconds per video, loading included, kept in `file`."""

    def run() -> dict[str, Any]:
        prompts = load_prompts(str(config.prompts))
        todo = [p for p in prompts if not (Path(config.out) / "videos" / name / f"{p.id}.mkv").exists()]
        started = time.process_time()
        make_videos(replace(config, generators={name: config.generators[name]}), prompts, Path(config.out))
        return {"cpu_seconds": round((time.process_time() - started) / max(1, len(todo)), 2)}

    return float(kept(file, run)["cpu_seconds"])


def answer(seed: int, places: Mapping[str, Path], runs: Path, shape: Sequence[int]) -> dict[str, Any]:
    """All generators of one seed, measured by evaluate.py: method -> figures, failures, CPU seconds per video."""
    out = runs / f"evaluation-s{seed}"

    def run() -> dict[str, Any]:
        systems = {name: METHODS[name].system.format(run=place) for name, place in places.items()}
        sampling = {"num_frames": shape[0], "height": shape[1], "width": shape[2], "num_inference_steps": STEPS,
                    "guidance_scale": GUIDANCE}  # fmt: skip
        given = ["task=generation", f"prompts={PROMPTS}", f"seed={seed}", f"out={out}", "device=cpu"]
        given += [f"generators.{name}={system}" for name, system in systems.items()]
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

    return kept(runs / f"evaluation-s{seed}.json", run)


@torch.no_grad()
def of_two_latents(config: RunConfig) -> dict[str, float]:
    """How paired tokens' codec gives the held-out clips back: nothing of it is trained, so no seed changes it."""
    codec, metrics = PairedCodec(load_vae(config.base.path)), RGBAMetrics()
    bf16 = resolve_precision(config.trainer) == "bf16-mixed"  # as the others are validated
    for batch in ClipDataModule(config.data, config.seed).val_dataloader():
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            rgb, alpha = codec.decode(codec.encode(batch))
        metrics.update(rgb, alpha, batch["rgb"], batch["alpha"], batch["canvas"], batch["key"])
    return metrics.compute()


def of_the_sample(config: RunConfig) -> dict[str, float]:
    """What the figures say of the clips themselves whose captions are asked for: means over them, NaN as they come."""
    asked = {p.id: p for p in load_prompts(str(PROMPTS))}
    found: list[dict[str, float]] = []
    for split in ("train", "val"):
        source = open_source(config.data, split)
        size, stride = (config.data.size[0], config.data.size[1]), low_high(config.data.frame_stride)
        dataset = ClipDataset(source, config.data.num_frames, size, config.seed, stride, augment=False)
        for n, clip in enumerate(source.clips):
            prompt = asked.get(str(clip.meta.get("caption")).replace(" ", "-"))
            if prompt is not None:
                batch = collate([dataset[n]])
                found.append(measure(to_frames(batch["rgb"], batch["alpha"]), prompt)[0])
    return {name: float(np.mean([f[name] for f in found])) for name in found[0]} | {"clips": len(found)}


def compare(bench: Bench, seeds: Sequence[int]) -> Results:
    """Train, generate, measure: seed by seed, so that an interrupted table is a smaller one, not a lopsided one."""
    tried = {"vae": choose_vae_rates(bench)}
    vae_rates = {model: max(found, key=found.__getitem__) for model, found in tried["vae"].items()}
    rate_of = {name: vae_rates[m.vae] for name, m in METHODS.items() if m.vae is not None}

    def vaes(seed: int) -> dict[str, Path | None]:
        return {n: bench.vae(n, seed, rate_of[n]) if n in rate_of else None for n in METHODS}

    tried["dit"] = choose_dit_rates(bench, vaes(SEEDS[0]))
    rates = {name: min(found, key=found.__getitem__) for name, found in tried["dit"].items()}
    reconstruction: dict[str, list[dict[str, Any]]] = {name: [] for name in rate_of}
    generation: dict[str, list[dict[str, Any]]] = {name: [] for name in GENERATORS}
    answers = []
    for seed in seeds:
        for name, rate in rate_of.items():
            reconstruction[name].append(train(*bench.vae_config(name, seed, rate)))
        for name in GENERATORS:
            generation[name].append(train(*bench.dit_config(name, seed, rates[name], vaes(seed)[name])))
        places = {name: bench.dit(name, seed, rates[name]) for name in GENERATORS}
        answers.append(answer(seed, places, bench.runs, generation[OURS][0]["shape"]))
    vae_config = bench.vae_config(OURS, SEEDS[0], rate_of[OURS])[0]
    dit_config = bench.dit_config(OURS, SEEDS[0], rates[OURS], vaes(SEEDS[0])[OURS])[0]
    return Results(
        titles={name: method.title for name, method in METHODS.items()},
        reconstruction=reconstruction,
        two_latents={PAIRED: of_two_latents(vae_config)},
        generation=generation,
        answers=answers,
        sample=of_the_sample(dit_config),
        prompts=[p.text for p in load_prompts(str(PROMPTS))],
        sampling={"steps": STEPS, "guidance": GUIDANCE},
        tried=tried,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "methods")
    parser.add_argument("--runs", type=Path, default=Path("runs/methods"))
    parser.add_argument("--seeds", type=int, default=len(SEEDS), help="the first so many of 0, 1, 2")
    parser.add_argument("extra", nargs="*", help="further KEY=VALUE for every run, such as trainer.max_steps=4")
    given = parser.parse_args()
    bench = Bench(given.runs, tuple(given.extra))
    same_keys(bench)
    results = compare(bench, SEEDS[: given.seeds])
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.with_suffix(".md").write_text(page(results))
    about = results.to_json() | {"environment": describe_environment()}
    given.out.with_suffix(".json").write_text(json.dumps(about, indent=2) + "\n")
    videos = given.runs / f"evaluation-s{SEEDS[0]}" / "videos"
    title = f"seed {SEEDS[0]}, {STEPS} steps, guidance {GUIDANCE:g}, nothing chosen"
    picture(videos, GENERATORS, load_prompts(str(PROMPTS)), title).save(given.out.with_suffix(".png"), optimize=True)
    print(page(results))


if __name__ == "__main__":
    main()
