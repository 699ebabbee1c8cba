"""What `benchmarks.methods` found, as one table in blocks, methods down and figures across, and as a picture."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from scipy import stats

from wan_alpha.data.media import probe, read_frames
from wan_alpha.evaluation.figures import ARROWS, figure
from wan_alpha.evaluation.gallery import gallery, on_checkerboard
from wan_alpha.evaluation.prompts import Prompt

RECONSTRUCTION = ("alpha/psnr", "alpha/ssim", "soft/psnr", "soft/ssim", "hard/psnr", "hard/ssim")
MOTION = ("temporal_flickering", "motion_smoothness", "flow_difference", "alpha_flicker")
"""Figures of videos that are about time; the others are about the matte.  All in one block are too wide for a page."""
SHOWN = 4
"""Prompts of the picture: the first so many of each category."""


@dataclass(frozen=True)
class Results:
    """Everything that the table is made of; the lists have an entry for each seed.

    Attributes:
        titles: method -> its name for people, in the order of the rows.
        reconstruction: method -> outcomes of its VAE's runs, which also hold the base's "ceiling" and "floor".
        two_latents: method -> figures of a codec of which nothing is trained.
        generation: method -> outcomes of its generator's runs.
        answers: method -> figures of its videos, which of them failed, CPU seconds per video.
        sample: the same figures of the sample's own clips, and how many "clips" there are.
        prompts: what was asked for.
        sampling: steps and guidance.
        tried: "vae" and "dit" -> architecture or method -> learning rate -> what it was chosen by.
    """

    titles: dict[str, str]
    reconstruction: dict[str, list[dict[str, Any]]]
    two_latents: dict[str, dict[str, float]]
    generation: dict[str, list[dict[str, Any]]]
    answers: list[dict[str, Any]]
    sample: dict[str, float]
    prompts: list[str]
    sampling: dict[str, float]
    tried: dict[str, dict[str, dict[float, float]]]

    def to_json(self) -> dict[str, Any]:
        """As plain containers."""
        return asdict(self)


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean, and half the width of the 95 % t-interval (0 for one value)."""
    if len(values) < 2:
        return float(np.mean(values)), 0.0
    half = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5
    return float(np.mean(values)), float(half)


def columns(names: Sequence[str], rows: Mapping[str, Sequence[Mapping[str, float | None]]],
            failed: Callable[[str, str], str] = lambda row, name: "") -> dict[str, list[str]]:  # fmt: skip
    """Row -> a cell for each figure: mean ± half an interval over the seeds, the best mean of the column in bold.

    Args:
        names: the figures.
        rows: row -> figures of every seed; a row with one entry has no interval.
        failed: (row, figure) -> on how many videos of how many it was not a number; then there is no mean.

    A row by itself is not compared with anything.
    """
    cells: dict[str, list[str]] = {row: [] for row in rows}
    for name in names:
        about = figure(name)
        sign = {"up": 1, "down": -1, "none": 0}[about.better]
        found = {row: [seed[name] for seed in seeds] for row, seeds in rows.items()}
        means = {row: interval(values) for row, values in found.items() if None not in values}  # type: ignore[arg-type]
        ranked = sorted((round(sign * mean, about.digits) for mean, _ in means.values()), reverse=True)
        for row, values in found.items():
            if row not in means:
                cells[row].append(f"NaN ({failed(row, name)})")
                continue
            mean, half = means[row]
            text = f"{mean:.{about.digits}f}" + (f" ± {half:.{about.digits}f}" if len(values) > 1 else "")
            best = sign and len(means) > 1 and round(sign * mean, about.digits) == ranked[0]
            cells[row].append(f"**{text}**" if best else text)
    return cells


def block(names: Sequence[str], rows: Mapping[str, Sequence[str]]) -> str:
    """Markdown: a heading for each figure, a line for each row."""
    found = [figure(name) for name in names]
    return markdown([f"{f.heading} {ARROWS[f.better]}".strip() for f in found], rows)


def markdown(headings: Sequence[str], rows: Mapping[str, Sequence[str]]) -> str:
    """A table whose first column names the rows."""
    lines = ["| | " + " | ".join(headings) + " |", "| --- |" + " ---: |" * len(headings)]
    return "\n".join([*lines, *(f"| {title} | {' | '.join(cells)} |" for title, cells in rows.items())]) + "\n"


def reconstruction(results: Results) -> str:
    """How the VAEs give held-out clips back; what is not trained is no competitor, and never in bold."""
    rows = {m: [o["mean"]["ours"] for o in outcomes] for m, outcomes in results.reconstruction.items()}
    cells = columns(RECONSTRUCTION, rows)
    references = next(iter(results.reconstruction.values()))[0]["mean"]
    frozen = results.two_latents | {name: figures for name, figures in references.items() if name != "ours"}
    for name, figures in frozen.items():
        cells |= columns(RECONSTRUCTION, {name: [figures]})
    order = [*results.titles, *(name for name in cells if name not in results.titles)]
    return block(RECONSTRUCTION, {results.titles.get(m, f"*{m}*"): cells[m] for m in order})


def generation(results: Results, about_time: bool) -> str:
    """What the generators made; rows without one are left out, and the sample's own clips come last."""
    measured = next(iter(results.answers[0].values()))["figures"]
    names = [name for name in results.sample if name in measured and (name in MOTION) == about_time]
    rows = {m: [a[m]["figures"] for a in results.answers] for m in results.generation}

    def failed(method: str, name: str) -> str:
        videos = len(results.prompts) * len(results.answers)
        return f"{sum(a[method]['failed'].get(name, (0, 0))[0] for a in results.answers)}/{videos}"

    cells = {results.titles[m]: shown for m, shown in columns(names, rows, failed).items()}
    clips = f"*{results.sample['clips']:g} clips of the sample*"
    return block(names, cells | columns(names, {clips: [results.sample]}))


def costs(results: Results) -> str:
    """What both parts of every method took."""
    rows = {}
    for m, title in results.titles.items():
        found = [_cost(part.get(m)) for part in (results.reconstruction, results.generation)]
        made = [a[m]["cpu_seconds"] for a in results.answers if m in a]
        rows[title] = [*found[0], *found[1], f"{np.mean(made):.1f}" if made else "–"]
    parts = [f"{part}: {what}" for part in ("VAE", "generator") for what in ("trained", "lr", "CPU s")]
    return markdown([*parts, "CPU s per video"], rows)


def _cost(outcomes: Sequence[Mapping[str, Any]] | None) -> list[str]:
    """Parameters trained, learning rate, CPU seconds of training."""
    if not outcomes:
        return ["–"] * 3
    seconds = np.mean([o["cpu_seconds"] for o in outcomes])
    return [f"{outcomes[0]['trained'] / 1e6:.2f} M", f"{outcomes[0]['rate']:g}", f"{seconds:.0f}"]


def page(results: Results) -> str:
    """The blocks, and what they say of themselves."""
    vae, dit = (next(iter(part.values()))[0] for part in (results.reconstruction, results.generation))
    clips = ["{batch} clips of {}x{}x{}".format(*run["shape"], batch=run["batch"]) for run in (vae, dit)]
    count, asked = len(results.answers), len(results.prompts)
    bold = "the best mean that there is in bold (intervals may overlap)"
    spread = f"{count} seeds: mean ± half a 95 % t-interval" if count > 1 else "**one seed, no interval**"
    return (
        f"`python -m benchmarks.methods`: {spread}; {bold}.\n\n"
        f"**Reconstruction.** RGBA VAEs after {vae['steps']} steps of {clips[0]}; {vae['clips']} held-out clips. "
        "Paired tokens use the base's VAE as it is, with two latents, one for colour and one for alpha: nothing is "
        "trained and no seed changes it; it is the ceiling but for alpha, the greatest of three decoded channels where "
        "the ceiling takes their mean. Floor: one latent, everything opaque.\n\n"
        f"{reconstruction(results)}\n"
        f"**Generation.** {dit['steps']} steps of {clips[1]}, on the latents of the VAE above of the same seed; "
        f"{asked} prompts, {results.sampling['steps']:g} sampling steps, guidance {results.sampling['guidance']:g}; "
        "means over the prompts; NaN (n/N): not a number on n of N videos, and so without a mean. The naive row and "
        "the prior's have no generator.\n\n"
        f"{generation(results, True)}\n{generation(results, False)}\n"
        f"**Cost.** Parameters trained, learning rate, CPU seconds.\n\n{costs(results)}"
    )


def picture(folder: Path, methods: Sequence[str], prompts: Sequence[Prompt], title: str) -> Image.Image:
    """The middle frame of some prompts of every category, a row for each method, on a checkerboard."""
    categories = dict.fromkeys(p.category for p in prompts)
    chosen = [p for category in categories for p in [p for p in prompts if p.category == category][:SHOWN]]
    tiles, captions = [], []
    for method, prompt in itertools.product(methods, chosen):
        file = folder / method / f"{prompt.id}.mkv"
        rgba = torch.from_numpy(read_frames(file, count=probe(file).num_frames)).permute(3, 0, 1, 2).float() / 255
        tiles.append(on_checkerboard(rgba[:3] * 2 - 1, rgba[3:], 128))
        captions.append(f"{method.replace('_', ' ')}: {prompt.text}")
    order = "; ".join(f"{SHOWN} prompts {category}" for category in categories)
    pages = gallery(tiles, captions, columns=len(chosen), title=f"{title}; {order}")
    return Image.fromarray(pages[len(pages) // 2])
