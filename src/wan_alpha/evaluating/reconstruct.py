"""task=reconstruction: encode and decode held-out clips with one or more codecs, and measure what comes back."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch.utils.data import DataLoader, Subset

from wan_alpha.baselines import Codec
from wan_alpha.baselines.registry import REFERENCE_NOTES, load_codec, load_reference
from wan_alpha.data.dataset import Batch, ClipDataset, collate
from wan_alpha.data.resize import Frames, one_thread, to_uint8
from wan_alpha.data.source import ClipSource
from wan_alpha.evaluating.config import EvaluateConfig
from wan_alpha.evaluating.publish import publish
from wan_alpha.evaluating.record import begin, write_player, write_results
from wan_alpha.evaluation.formats import terminal_table
from wan_alpha.evaluation.frechet import picture_features
from wan_alpha.evaluation.lpips import LPIPS
from wan_alpha.evaluation.panels import panel, write_panels
from wan_alpha.evaluation.reconstruction import TRUTH, Protocol, ReconstructionEvaluation
from wan_alpha.evaluation.scores import Scores
from wan_alpha.evaluation.statistics import Estimate
from wan_alpha.evaluation.summary import summarise, worst_clips
from wan_alpha.lineage import Piece
from wan_alpha.models.device import choose_device
from wan_alpha.training.data import low_high, open_source
from wan_alpha.training.record_lineage import adapters_piece

SAVE_EVERY_SECONDS = 30.0
OURS = "ours"


class UnmeasurableError(ValueError):
    """There is nothing to measure, or nothing to measure with."""


def reconstruct(config: EvaluateConfig, tree: dict[str, Any], out: Path) -> None:
    """Measure every clip that has no scores yet, then write tables, panels and the report."""
    device, console = choose_device(config.device), Console()
    source = open_source(config.data, config.split)
    codecs = load_codecs(config, device)
    lpips = LPIPS(config.networks.lpips).to(device) if config.networks.lpips else None
    features = picture_features(config.networks.fid, device) if config.networks.fid else None
    facts = {"data": source.manifest_hash, "features": features[2] if features else None}
    begin(out, tree, facts)
    dataset = ClipDataset(
        source, config.data.num_frames, (config.data.size[0], config.data.size[1]), config.seed,
        low_high(config.data.frame_stride), augment=False,
    )  # fmt: skip
    ids = clip_ids(source)[: config.max_clips]
    categories = dict(zip(ids, (str(clip.meta.get("category", "all")) for clip in source.clips), strict=False))
    protocol = Protocol(lpips, features[:2] if features else None, config.nine_colours, lambda key: categories[key])
    scores = Scores(out)
    evaluation = ReconstructionEvaluation(codecs, protocol, scores, out)
    problems = [*source.problems, *measure_all(evaluation, dataset, ids, config, device)]
    if not len(scores):
        raise UnmeasurableError("no clip could be measured:\n  " + "\n  ".join(problems))
    summary = summarise(scores, config.seed)
    for system in codecs:
        summary.systems[system] |= {
            name: Estimate(value, float("nan"), float("nan"), len(summary.clips), int(value != value))
            for name, value in evaluation.distances(system).items()
        }
    summary.failures += problems
    summary.facts = facts | {"references": {n: REFERENCE_NOTES[n] for n in config.references}}
    console.print(terminal_table(summary, f"{len(summary.clips)} clips of {config.data.root}"))
    write_results(out, summary, scores)
    draw(codecs, scores, dataset, ids, config, out, device)
    publish(out, summary, scores, config, f"Reconstruction of {config.data.root}", pieces(config, source))
    console.print(f"[green]done[/green]: {escape(str(out))}", soft_wrap=True)


def pieces(config: EvaluateConfig, source: ClipSource) -> list[Piece]:
    """The clips, and the adapters that are compared on them."""
    named = [name for name in (config.adapters, *config.codecs.values()) if name]
    adapters = [piece for name in named for piece in adapters_piece("vae-adapters", name)]
    return [Piece("data", source.manifest_hash), *dict.fromkeys(adapters)]


def load_codecs(config: EvaluateConfig, device: torch.device) -> dict[str, Codec]:
    """`adapters` is "ours"; then `codecs` by their names, then the references."""
    if config.adapters and OURS in config.codecs:
        raise UnmeasurableError(f"codecs.{OURS}: adapters= is called so; choose another name, or leave adapters= out")
    named = ({OURS: config.adapters} if config.adapters else {}) | config.codecs
    if clash := set(named) & set(config.references):
        raise UnmeasurableError(f"codecs.{clash.pop()}: the name of a reference; choose another, or references=[]")
    codecs: dict[str, Codec] = {name: load_codec(config.base.path, path, device) for name, path in named.items()}
    codecs |= {name: load_reference(name, config.base.path, device) for name in config.references}
    if not codecs:
        raise UnmeasurableError("nothing to measure: give adapters=DIR_OR_RUN, codecs.NAME=DIR_OR_RUN or references")
    return codecs


def clip_ids(source: ClipSource) -> list[str]:
    """A name per clip: its key, with a number behind it where a key returns."""
    seen: dict[str, int] = {}
    ids = []
    for clip in source.clips:
        seen[clip.key] = seen.get(clip.key, 0) + 1
        ids.append(clip.key if seen[clip.key] == 1 else f"{clip.key}#{seen[clip.key]}")
    return ids


def measure_all(
    evaluation: ReconstructionEvaluation, dataset: ClipDataset, ids: Sequence[str], config: EvaluateConfig,
    device: torch.device,
) -> list[str]:  # fmt: skip
    """Every clip without scores, a batch at a time; returns what could not be read."""
    todo = [i for i, name in enumerate(ids) if name not in evaluation.done]
    loader = DataLoader(
        Subset(dataset, todo), batch_size=config.data.val_batch_size, collate_fn=collate,
        num_workers=config.data.num_workers if len(todo) > 1 else 0,
        multiprocessing_context="spawn" if config.data.num_workers and len(todo) > 1 else None,
        worker_init_fn=one_thread,
    )  # fmt: skip
    problems, saved = [], time.monotonic()
    columns = (TextColumn("measuring"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        task = progress.add_task("clips", total=len(ids), completed=len(ids) - len(todo))
        for batch in loader:
            batch["key"] = [ids[i] for i in batch["index"].tolist()]
            problems += [problem for problem in batch["problem"] if problem]
            evaluation.update(batch, device)
            if time.monotonic() - saved > SAVE_EVERY_SECONDS:
                evaluation.save()
                saved = time.monotonic()
            progress.advance(task, len(batch["key"]))
    evaluation.save()
    return problems


def draw(
    codecs: dict[str, Codec], scores: Scores, dataset: ClipDataset, ids: list[str], config: EvaluateConfig, out: Path,
    device: torch.device,
) -> None:  # fmt: skip
    """Panels of the worst clips of each trained codec, by the PSNR of the soft render, and videos of them all."""
    for system in codecs:
        if system in config.references:
            continue
        panels = []
        for clip, _ in worst_clips(scores, system, "soft/psnr", config.report.worst):
            batch = collate([dataset[ids.index(clip)]])
            outputs = {name: other.reconstruct(*_on(batch, device)) for name, other in codecs.items()}
            rgb, alpha = outputs[system]
            if config.report.players:
                videos = {TRUTH: (batch["rgb"], batch["alpha"]), **outputs}
                fps = dataset.source.clips[ids.index(clip)].fps
                write_player(out, clip, {n: to_frames(*v) for n, v in videos.items()}, fps, config.report.height)
            panels.append(
                panel(batch["rgb"][0], batch["alpha"][0], rgb[0], alpha[0], batch["canvas"][0], f"{system}: {clip}")
            )
        write_panels(out / "panels" / f"worst-{system}", panels, fps=8)


def to_frames(rgb: torch.Tensor, alpha: torch.Tensor) -> Frames:
    """The first clip of a batch as straight RGBA, uint8 (T, H, W, 4)."""
    rgba = torch.cat([(rgb[0].clamp(-1, 1) + 1) / 2, alpha[0].clamp(0, 1)]).cpu()
    return to_uint8(rgba.transpose(0, 1).contiguous())


def _on(batch: Batch, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return batch["rgb"].to(device), batch["alpha"].to(device), batch["background"].to(device)
