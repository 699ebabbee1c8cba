"""generators.NAME=...: the videos of a system are made first, by the project's own pipeline or by a baseline."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from wan_alpha.baselines import Sampling
from wan_alpha.baselines.registry import Setting, is_generator, load_generator, sampling_with, trained_for
from wan_alpha.data.media import write_ffv1
from wan_alpha.evaluating.config import EvaluateConfig
from wan_alpha.evaluating.record import RecordError, write_text
from wan_alpha.evaluation.prompts import Prompt
from wan_alpha.lineage import Piece, file_piece, folder_piece
from wan_alpha.models.device import choose_device


def make_videos(config: EvaluateConfig, prompts: Sequence[Prompt], out: Path) -> dict[str, str]:
    """Every prompt by every generator, lossless, into out/videos/NAME; what is there already stays.

    Returns:
        NAME -> folder, like `videos`.
    """
    if not config.generators:
        return {}
    asked = out / "videos" / "prompts.json"
    write_text(asked, json.dumps({p.id: p.text for p in prompts}, ensure_ascii=False, indent=2) + "\n")
    folders = {}
    for name, system in config.generators.items():
        folder = out / "videos" / name
        if is_generator(system):
            by_baseline(system, name, config, prompts, folder)
        else:
            by_pipeline(system, config, asked, folder)
        folders[name] = str(folder)
    return folders


def by_pipeline(adapters: str, config: EvaluateConfig, asked: Path, folder: Path) -> None:
    """The project's own pipeline, with adapters."""
    from wan_alpha.pipeline.config import EdgesConfig, GenerateConfig
    from wan_alpha.pipeline.generate import generate
    from wan_alpha.schema import BaseConfig

    sampling = config.sampling
    generate(
        GenerateConfig(
            task="t2v", base=BaseConfig(config.base.name, config.base.path), prompt=None, prompts=str(asked),
            negative_prompt=None, image=None, adapters=adapters, distill=None, preview=None, out=str(folder),
            formats=["mkv"], seed=config.seed,
            num_frames=sampling.num_frames, height=sampling.height, width=sampling.width,
            num_inference_steps=sampling.num_inference_steps, guidance_scale=sampling.guidance_scale, shift=None,
            fps=None, batch_size=1, merge=True, device=config.device, dtype="auto", offload="none", tile=None,
            edges=EdgesConfig(0, 0), background="checkerboard", overwrite=False,
        )
    )  # fmt: skip


def by_baseline(system: str, name: str, config: EvaluateConfig, prompts: Sequence[Prompt], folder: Path) -> None:
    """A baseline, with the same base, sizes, steps, guidance and seed as the pipeline would have."""
    device, sampling = choose_device(config.device), sampling_of(config)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    setting = Setting(config.base.path, sampling, device, dtype, asked(config))
    used = asdict(sampling_with(system, setting))
    made = {"system": system, "base": config.base.path, "seed": config.seed, "sampling": used}
    made |= {"trained": names} if (names := trained_names(system)) else {}
    check_made(folder.with_name(f"{folder.name}.made.json"), made, folder)
    todo = [p for p in prompts if not (folder / f"{p.id}.mkv").exists()]
    if not todo:
        return
    generator = load_generator(system, setting)
    folder.mkdir(parents=True, exist_ok=True)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
               TimeRemainingColumn())  # fmt: skip
    with Progress(*columns) as progress:
        bar = progress.add_task(name, total=len(prompts), completed=len(prompts) - len(todo))
        for prompt in todo:
            frames = generator.generate(prompt.text, config.seed)
            write_ffv1(frames, generator.fps, folder / f"{prompt.id}.mkv")
            progress.advance(bar)


def check_made(file: Path, made: dict[str, object], folder: Path) -> None:
    """Videos that were made otherwise are not taken for these."""
    if file.exists() and (before := json.loads(file.read_text())) != made:
        differing = [f"{k}: {before.get(k)} -> {v}" for k, v in made.items() if before.get(k) != v]
        raise RecordError(
            f"{folder} holds videos that were made otherwise: {'; '.join(differing)}; choose another out="
        )
    write_text(file, json.dumps(made, indent=2) + "\n")


def asked(config: EvaluateConfig) -> dict[str, Any]:
    """What `sampling` gives, in the words of `Sampling`."""
    s = config.sampling
    named = {"num_frames": s.num_frames, "height": s.height, "width": s.width, "steps": s.num_inference_steps,
             "guidance": s.guidance_scale}  # fmt: skip
    return {key: value for key, value in named.items() if value is not None}


def trained_pieces(system: str) -> list[Piece]:
    """What was trained for a system, by content: adapters as the run that exported them has recorded them."""
    return [folder_piece(kind, place) if place.is_dir() else file_piece(kind, place)
            for place, kind in trained_for(system).items()]  # fmt: skip


def trained_names(system: str) -> list[str]:
    """The names that `lineage.json` gives to `trained_pieces`."""
    return [piece.name for piece in trained_pieces(system)]


def how_made(config: EvaluateConfig, out: Path) -> dict[str, dict[str, Any]]:
    """generator -> what its videos were made with, defaults included, as their files say.

    "trained" are the names that `lineage.json` gives to what was trained for it.
    """
    found: dict[str, dict[str, Any]] = {}
    for name, system in config.generators.items():
        folder = out / "videos" / name
        if is_generator(system):
            found[name] = json.loads(folder.with_name(f"{name}.made.json").read_text())
        else:
            about = json.loads(min(folder.glob("*.json")).read_text())
            shape = {key: about[key] for key in ("num_frames", "height", "width")}
            found[name] = {"system": system} | shape | {k: v for k, v in about["made_with"].items() if k != "prompt"}
            found[name]["trained"] = trained_names(system)
    return found


def sampling_of(config: EvaluateConfig) -> Sampling:
    """`sampling` with what generate.py takes by itself where nothing is given."""
    from wan_alpha.pipeline.loading import read_form

    given = asked(config)
    if not {"num_frames", "height", "width"} <= given.keys():
        form = read_form(config.base.path)
        given = {"num_frames": form.frames, "height": form.height, "width": form.width} | given
    return Sampling(**given)
