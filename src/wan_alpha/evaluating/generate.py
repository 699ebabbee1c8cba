"""task=generation: any number of systems' videos for one list of prompts, measured and shown side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from wan_alpha.data.errors import MediaError
from wan_alpha.data.resize import Frames
from wan_alpha.evaluating.config import EvaluateConfig
from wan_alpha.evaluating.fvd import add_fvd, video_bytes
from wan_alpha.evaluating.generators import how_made, make_videos, trained_pieces
from wan_alpha.evaluating.publish import publish
from wan_alpha.evaluating.record import begin, has_player, write_player, write_results
from wan_alpha.evaluating.study import write_study
from wan_alpha.evaluation.formats import terminal_table
from wan_alpha.evaluation.generation import measure
from wan_alpha.evaluation.judge import Judge
from wan_alpha.evaluation.networks import ClipScore, VideoFeatures
from wan_alpha.evaluation.prompts import Prompt, load_prompts
from wan_alpha.evaluation.scores import Score, Scores
from wan_alpha.evaluation.summary import Summary, summarise
from wan_alpha.evaluation.vbench import claim, film, read_results, write_prompts, write_video
from wan_alpha.evaluation.videos import Shape, System, VideoError, common_shape, open_clips, open_system, read
from wan_alpha.lineage import Piece
from wan_alpha.models.device import choose_device


def generation(config: EvaluateConfig, tree: dict[str, Any], out: Path) -> None:
    """Measure every prompt that all systems answer and that has no scores yet, then write tables and the report."""
    if not (config.videos or config.generators):
        raise VideoError("nothing to measure: give videos.NAME=DIR for each system, or generators.NAME=ADAPTERS")
    if config.prompts is None:
        raise VideoError("which prompts? give prompts=bench, prompts=transpixeler or prompts=FILE")
    if config.networks.fvd and not config.networks.reference:
        raise VideoError("networks.fvd needs networks.reference=DIR, a folder of clips to compare with")
    prompts, device = load_prompts(config.prompts), choose_device(config.device)
    # Before anything is generated or measured: can they be read?
    reference = open_clips(Path(config.networks.reference)) if config.networks.reference else None
    network = VideoFeatures(config.networks.fvd, device) if config.networks.fvd else None
    folders = config.videos | make_videos(config, prompts, out)
    systems = [open_system(name, Path(folder), prompts) for name, folder in folders.items()]
    common = [p for p in prompts if all(p.id in s.videos for s in systems)]
    if not common:
        have = "; ".join(f"{s.name}: {', '.join(sorted(s.videos)[:5])}" for s in systems)
        raise VideoError(f"no prompt is answered by every system ({have})")
    align = config.align
    shape = common_shape(systems, [p.id for p in common], align.how, align.size, align.fps, align.num_frames)
    facts = {"videos": {s.name: fingerprint(s) for s in systems}, "prompts": [p.text for p in prompts]}
    begin(out, tree, facts)
    if config.vbench:
        claim(Path(config.vbench), facts | {"shape": vars(shape) if shape else None, "align": vars(align)})
    scores = Scores(out)
    problems = measure_all(systems, common, shape, config, scores, out, device)
    if config.vbench:
        exchange_with_vbench(Path(config.vbench), systems, common, scores)
    if not scores.common_clips():
        raise VideoError("no prompt could be measured:\n  " + "\n  ".join(problems))
    summary = summarise(scores, config.seed)
    tell(summary, systems, prompts, common, scores, shape, problems)
    summary.facts |= {"generators": how_made(config, out)} if config.generators else {}
    convert = align.premultiplied == "convert"
    if network and reference:
        measured = [p.id for p in common if p.id in set(summary.clips)]
        add_fvd(summary, systems, measured, shape, convert, network, reference, out)
    Console().print(terminal_table(summary, f"{len(summary.clips)} prompts of {config.prompts}"))
    write_results(out, summary, scores)
    publish(out, summary, scores, config, "Generated transparency, side by side", pieces(config))
    if config.report.ab and len(systems) > 1:
        counted = [p for p in common if p.id in set(summary.clips)]
        write_study(out, systems, counted, shape, convert, config.report.height, config.seed)
    Console().print(f"[green]done[/green]: {escape(str(out))}", soft_wrap=True)


def pieces(config: EvaluateConfig) -> list[Piece]:
    """What was trained for the generators, each once; of finished videos nothing is known."""
    return list(dict.fromkeys(piece for system in config.generators.values() for piece in trained_pieces(system)))


def fingerprint(system: System) -> dict[str, int]:
    """Bytes of each video: enough to notice that a folder has changed since it was measured."""
    return {i: video_bytes(video.media) for i, video in sorted(system.videos.items())}


def measure_all(
    systems: Sequence[System], prompts: Sequence[Prompt], shape: Shape | None, config: EvaluateConfig, scores: Scores,
    out: Path, device: torch.device,
) -> list[str]:  # fmt: skip
    """Every prompt that lacks scores or something to look at, one after the other; returns what could not be read."""
    clip = ClipScore(config.networks.clip, device) if config.networks.clip else None
    named = config.judge
    judge = Judge(named.endpoint, named.model, named.key_variable, named.frames) if named.endpoint else None
    problems: list[str] = []
    columns = (TextColumn("measuring"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        for prompt in progress.track(prompts):
            parts = Missing.of(prompt, systems, config, scores, out)
            if not any(vars(parts).values()):
                continue
            try:
                convert = config.align.premultiplied == "convert"
                videos = {s.name: read(s.videos[prompt.id], shape, convert) for s in systems}
            except MediaError as error:
                problems.append(f"{prompt.id}: left out: {error}")
                continue
            fps = shape.fps if shape else systems[0].videos[prompt.id].info.fps
            if config.vbench and parts.film:
                for name, (frames, _) in videos.items():
                    write_video(Path(config.vbench), name, prompt.id, frames, fps)
            if parts.player:
                frames_of = {name: frames for name, (frames, _) in videos.items()}
                write_player(out, prompt.id, frames_of, fps, config.report.height)
            if parts.scores:
                scores.add(*(score_of(name, prompt, *video, clip, judge) for name, video in videos.items()))
    return problems


@dataclass(frozen=True)
class Missing:
    """What is still to be made of one prompt."""

    scores: bool
    player: bool
    film: bool

    @classmethod
    def of(
        cls, prompt: Prompt, systems: Sequence[System], config: EvaluateConfig, scores: Scores, out: Path
    ) -> Missing:
        folder = Path(config.vbench) if config.vbench else None
        return cls(
            any(scores.get(s.name, prompt.id) is None for s in systems),
            config.report.players and not has_player(out, prompt.id, config.report.height),
            folder is not None and not all(film(folder, s.name, prompt.id).exists() for s in systems),
        )


def score_of(
    system: str, prompt: Prompt, frames: Frames, divided: bool, clip: ClipScore | None, judge: Judge | None
) -> Score:
    """Every figure of one video."""
    figures, notes = measure(frames, prompt)
    if clip is not None:
        figures["clip_score"] = clip(frames, prompt.text)
    if judge is not None:
        figures |= judge(frames, prompt.text)
    return Score(system, prompt.id, prompt.category, figures, notes | ({"converted": True} if divided else {}))


def tell(
    summary: Summary, systems: Sequence[System], prompts: Sequence[Prompt], common: Sequence[Prompt], scores: Scores,
    shape: Shape | None, problems: list[str],
) -> None:  # fmt: skip
    """What a reader must know beside the figures."""
    shared = {p.id for p in common}
    for s in systems:
        answered = [p.id for p in prompts if p.id in s.videos]
        if missing := [p.id for p in prompts if p.id not in s.videos]:
            summary.failures.append(
                f"{s.name}: no video for {len(missing)} of {len(prompts)} prompts: {_some(missing)}"
            )
        if rest := [i for i in answered if i not in shared]:
            summary.left_out[s.name] = rest
        if s.unasked:
            summary.failures.append(f"{s.name}: videos that answer no prompt: {_some(s.unasked)}")
        if absent := [i for i in answered if not s.videos[i].has_alpha]:
            summary.failures.append(
                f"{s.name}: no alpha in {len(absent)} videos; its figures of alpha are absent: {_some(absent)}"
            )
        for note, words in NOTES.items():
            if named := [c.clip for c in scores if c.system == s.name and c.notes.get(note)]:
                summary.failures.append(f"{s.name}: {words}: {_some(named)}")
        summary.failures += s.problems
    summary.failures += problems
    summary.facts["prompts"] = {p.id: {"text": p.text, "expects": p.expects, "category": p.category} for p in common}
    summary.facts["shape"] = None if shape is None else vars(shape)


NOTES = {
    "premultiplied": "colours look premultiplied, so that edges are too dark (align.premultiplied=convert mends it)",
    "converted": "colours looked premultiplied and were divided by alpha",
    "opaque": "alpha is 1 everywhere",
    "empty": "nothing is visible (alpha is at most 0.05 everywhere), so nothing flickers or leaks",
}


def exchange_with_vbench(folder: Path, systems: Sequence[System], prompts: Sequence[Prompt], scores: Scores) -> None:
    """Say what VBench is to measure, and take over what it has measured."""
    scored = {s.name: set(scores.clips(s.name)) for s in systems}
    write_prompts(folder, [s.name for s in systems], {p.id: p.text for p in prompts if p.id in scored[systems[0].name]})
    for s in systems:
        for clip, figures in read_results(folder, s.name).items():
            score = scores.get(s.name, clip)
            if score and not figures.items() <= score.figures.items():
                scores.add(replace(score, figures=score.figures | figures))


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
