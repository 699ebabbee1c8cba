"""The paper's VAE ablation and the trainable VAE methods on equal data and steps: one table.

    python -m benchmarks.vae_methods [--out benchmarks/results/vae_methods] [--runs runs/vae_methods] [KEY=VALUE ...]

Trains every row with every seed on `experiment=vae_methods` in this process, one after the other; what is finished is
kept, and what was interrupted goes on.  An architecture with several learning rates in RATES first tries them with the
first seed, and keeps the one with the better sum of alpha and soft PSNR.  Figures are means over held-out
clips; intervals are 95 % t-intervals over the seeds.  Writes OUT.md and OUT.json.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hydra
import numpy as np
from scipy import stats

from wan_alpha.training import run as training
from wan_alpha.training.build import build_module
from wan_alpha.training.entry import checked
from wan_alpha.training.identity import register_resolver
from wan_alpha.training.provenance import describe_environment

ROOT = Path(__file__).resolve().parents[1]
SEEDS = (0, 1, 2)
RATES = {"wan_alpha": (2e-3,), "alphavae": (2e-3, 5e-4), "layerdiffuse": (2e-3,)}
"""The stage's own; whole VAEs usually want less than adapters."""
FIGURES = {"alpha/psnr": "alpha PSNR", "alpha/ssim": "alpha SSIM", "soft/psnr": "soft PSNR", "soft/ssim": "soft SSIM",
           "hard/psnr": "hard PSNR", "hard/ssim": "hard SSIM"}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One row: its name for people, the architecture whose learning rate it takes, and what it is trained with."""

    title: str
    model: str
    overrides: tuple[str, ...] = ()


OURS = "soft_hard"
ROWS = {
    "none": Row("ours, naive: colour and alpha compared as they are", "wan_alpha", ("loss.render=none",)),
    OURS: Row("ours, + soft and hard rendering (the paper's)", "wan_alpha"),
    "prior": Row("ours, + rendering + diffusion prior (version 2)", "wan_alpha", ("loss.prior.weight=0.1",)),
    "four_channel": Row("four channels (AlphaVAE)", "alphavae"),
    "latent_offset": Row("latent offset (LayerDiffuse)", "layerdiffuse"),
}
FIRST = {"wan_alpha": OURS, "alphavae": "four_channel", "layerdiffuse": "latent_offset"}
"""The row with which an architecture tries its learning rates."""


def train(row: str, seed: int, rate: float, runs: Path, extra: list[str]) -> dict[str, Any]:
    """One run, or what it left when it ran before: means over clips by figure, parameters trained, CPU seconds."""
    place = runs / f"{row}-lr{rate:g}-s{seed}"
    done = place / "outcome.json"
    if done.exists():
        return json.loads(done.read_text())
    register_resolver()
    with hydra.initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        overrides = ["stage=vae", f"model={ROWS[row].model}", "experiment=vae_methods", *ROWS[row].overrides]
        settings = [f"seed={seed}", f"optim.lr={rate}", f"run_dir={place}", "callbacks.progress=false"]
        config, tree = checked(hydra.compose("train", [*overrides, *settings, *extra]))
    started = time.process_time()
    training.train(config, tree)
    seconds = time.process_time() - started
    metrics = json.loads((place / "metrics.json").read_text())
    mean = metrics["mean"]
    outcome = {
        "figures": {name: mean["ours"][name] for name in FIGURES},
        "references": {key: {f: values[f] for f in FIGURES} for key, values in mean.items() if key != "ours"},
        "clips": len(metrics["clips"]),
        "trained": sum(p.numel() for p in build_module(config).trainable().values()),
        "cpu_seconds": round(seconds, 1),
        "steps": config.trainer.max_steps,
    }
    done.write_text(json.dumps(outcome, indent=2) + "\n")
    return outcome


def quality(outcome: dict[str, Any]) -> float:
    """What a learning rate is chosen by."""
    return outcome["figures"]["alpha/psnr"] + outcome["figures"]["soft/psnr"]


def interval(values: list[float]) -> tuple[float, float]:
    """Mean, and half the width of the 95 % t-interval (0 for one value)."""
    if len(values) < 2:
        return float(np.mean(values)), 0.0
    half = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5
    return float(np.mean(values)), float(half)


def table(results: dict[str, list[dict[str, Any]]], rates: dict[str, float]) -> str:
    """Markdown: one line per row of ROWS, then the base's ceiling and floor."""
    names = list(FIGURES)
    lines = ["|  | " + " | ".join(FIGURES.values()) + " | trained | CPU s per run | lr |",
             "| --- |" + " ---: |" * (len(names) + 3)]  # fmt: skip
    cells = {row: {n: interval([o["figures"][n] for o in results[row]]) for n in names} for row in results}
    best = {n: max(cell[n][0] for cell in cells.values()) for n in names}
    for row, outcomes in results.items():
        shown = []
        for n in names:
            mean, half = cells[row][n]
            digits = 2 if n.endswith("psnr") else 3
            text = f"{mean:.{digits}f} ± {half:.{digits}f}" if len(outcomes) > 1 else f"{mean:.{digits}f}"
            shown.append(f"**{text}**" if mean == best[n] else text)
        trained = f"{outcomes[0]['trained'] / 1e6:.2f} M"
        seconds = f"{np.mean([o['cpu_seconds'] for o in outcomes]):.0f}"
        lines.append(f"| {ROWS[row].title} | {' | '.join(shown)} | {trained} | {seconds} | "
                     f"{rates[ROWS[row].model]:g} |")  # fmt: skip
    for name, values in next(iter(results.values()))[0]["references"].items():
        shown = [f"{values[n]:.{2 if n.endswith('psnr') else 3}f}" for n in names]
        lines.append(f"| *{name}* | {' | '.join(shown)} | – | – | – |")
    return "\n".join(lines) + "\n"


def page(results: dict[str, list[dict[str, Any]]], rates: dict[str, float]) -> str:
    """The table and what it says of itself."""
    first = next(iter(results.values()))
    spread = "mean ± half a 95 % t-interval over the seeds, best mean in bold (its interval may hold others)"
    seeds = f"{len(first)} seeds; {spread}" if len(first) > 1 else "**one seed, so no interval**; best in bold"
    return (
        f"After {first[0]['steps']} steps of four 5x32x32 clips, {first[0]['clips']} held-out clips, "
        f"{seeds}. Ceiling: the frozen base with two latents; floor: with one, everything opaque. "
        "`python -m benchmarks.vae_methods`\n\n" + table(results, rates)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "vae_methods")
    parser.add_argument("--runs", type=Path, default=Path("runs/vae_methods"))
    parser.add_argument("--seeds", type=int, default=len(SEEDS), help="the first so many of 0, 1, 2")
    parser.add_argument("extra", nargs="*", help="further KEY=VALUE for every run, such as trainer.max_steps=4")
    given = parser.parse_args()
    rates = {}
    for model, row in FIRST.items():
        tried = {rate: quality(train(row, SEEDS[0], rate, given.runs, given.extra)) for rate in RATES[model]}
        rates[model] = max(tried, key=lambda rate: tried[rate])
    results: dict[str, list[dict[str, Any]]] = {row: [] for row in ROWS}
    for seed in SEEDS[: given.seeds]:  # seed by seed: an interrupted table is a smaller one, not a lopsided one
        for row, spec in ROWS.items():
            results[row].append(train(row, seed, rates[spec.model], given.runs, given.extra))
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.with_suffix(".md").write_text(page(results, rates))
    about = {"rates": rates, "results": results, "environment": describe_environment()}
    given.out.with_suffix(".json").write_text(json.dumps(about, indent=2) + "\n")
    print(page(results, rates))


if __name__ == "__main__":
    main()
