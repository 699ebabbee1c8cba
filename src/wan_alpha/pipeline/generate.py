"""Running `generate.py`: what is there already stays, the rest is made batch by batch."""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from wan_alpha.models.device import choose_device
from wan_alpha.pipeline.composite import check_background
from wan_alpha.pipeline.config import GenerateConfig
from wan_alpha.pipeline.image_to_video import ImageError, check_image_and_base, read_first_frame
from wan_alpha.pipeline.jobs import Job, missing_files, plan, refuse_bytes, replace_record, settings
from wan_alpha.pipeline.loading import quiet_loading, read_form
from wan_alpha.pipeline.pipeline import AlphaWanPipeline
from wan_alpha.pipeline.video import OutputError

log = logging.getLogger(__name__)


def generate(config: GenerateConfig, console: Console | None = None) -> list[Path]:
    """Make every video of a configuration that is not there yet.

    Returns:
        All files, new and old.
    """
    console = console or Console()
    refuse_bytes(config)
    jobs = plan(config)
    config = checked(config)
    wanted = settings(config)
    todo = [job for job in jobs if missing_files(job, config, wanted)]
    if len(todo) < len(jobs):
        console.print(f"{len(jobs) - len(todo)} of {len(jobs)} videos are there already", highlight=False)
    if todo:
        make(load(config, console), todo, config, wanted, console)
    files = [path for job in jobs for path in job.files(Path(config.out), list(config.formats)).values()]
    for path in files:
        console.print(f"{size_of(path) / 1024:9,.0f} KiB  {path}", markup=False, highlight=False, soft_wrap=True)
    return files


def load(config: GenerateConfig, console: Console) -> AlphaWanPipeline:
    """The pipeline, on its device."""
    device = choose_device(config.device)
    default = torch.bfloat16 if device.type == "cuda" else torch.float32
    dtype = default if config.dtype == "auto" else getattr(torch, config.dtype)
    quiet_loading()
    with console.status(f"loading {config.base.name}"):
        options: dict[str, Any] = {"merge": config.merge, "distill": config.distill, "preview": config.preview,
                                   "dtype": dtype}  # fmt: skip
        pipe = AlphaWanPipeline.from_pretrained(config.base.path, config.adapters, **options)
        if config.tile is not None:
            pipe.vae.enable_tiling(config.tile)
        if config.offload == "model":
            pipe.enable_model_cpu_offload(device=device)
        elif config.offload == "sequential":
            pipe.enable_sequential_cpu_offload(device=device)
        else:
            pipe.to(device)
    pipe.set_progress_bar_config(disable=True)  # ours counts videos and steps in one bar
    return pipe


def make(
    pipe: AlphaWanPipeline, jobs: list[Job], config: GenerateConfig, wanted: dict[str, Any], console: Console
) -> None:
    """Sample, decode and write, with one bar that counts denoising steps."""
    steps = config.num_inference_steps or (4 if pipe.few_step else 50)
    groups = list(batched_jobs(jobs, config.batch_size))
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TextColumn("steps"),
               TimeElapsedColumn(), TimeRemainingColumn())  # fmt: skip
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("", total=steps * len(groups))

        def advance(_: Any, step: int, timestep: torch.Tensor, tensors: dict[str, Any]) -> dict[str, Any]:
            progress.advance(bar)
            return tensors

        for group in groups:
            progress.update(bar, description=" ".join(group[0].prompt.split())[:40])
            write(group, config, wanted, sample(pipe, group, config, steps, advance))


def sample(pipe: AlphaWanPipeline, group: list[Job], config: GenerateConfig, steps: int, advance: Any) -> list[Any]:
    """The videos of one batch."""
    assert config.num_frames is not None  # `checked` has run
    assert config.height is not None
    assert config.width is not None
    return pipe(
        [job.prompt for job in group],
        negative_prompt=None if config.negative_prompt is None else [config.negative_prompt] * len(group),
        num_frames=config.num_frames,
        height=config.height,
        width=config.width,
        num_inference_steps=steps,
        guidance_scale=config.guidance_scale,
        seed=[job.seed for job in group],
        shift=config.shift,
        fps=config.fps,
        image=config.image if config.task == "i2v" else None,
        callback_on_step_end=advance,
    )


def write(group: list[Job], config: GenerateConfig, wanted: dict[str, Any], videos: list[Any]) -> None:
    """The files of one batch; a file that is there is complete."""
    for job, video in zip(group, videos, strict=True):
        replace_record(job, config, wanted, dict(video.metadata))
        edges = config.edges
        cleaned = video.cleaned(edges.threshold, edges.bleed) if edges.threshold or edges.bleed else video
        for name, path in missing_files(job, config, wanted).items():
            cleaned.save(path, format=name, overwrite=config.overwrite, background=config.background)


def batched_jobs(jobs: list[Job], size: int) -> list[list[Job]]:
    """Groups of at most `size`."""
    return [jobs[i : i + size] for i in range(0, len(jobs), size)]


def checked(config: GenerateConfig) -> GenerateConfig:
    """The configuration with the sizes that its base was made for, where none are given.

    Whatever can be wrong with what is given is found here, before a model is loaded.

    Raises:
        DeviceError, BaseError, SizeError, ImageError, BackgroundError, OutputError: what is wrong, and what to give
            instead.
    """
    choose_device(config.device)
    if (config.image is not None) != (config.task == "i2v"):
        raise ImageError("task=i2v and image=FILE belong together: give both, or neither")
    form = read_form(config.base.path)
    check_image_and_base(config.image is not None, form.takes_image)
    frames, height, width = config.num_frames or form.frames, config.height or form.height, config.width or form.width
    form.check_size(height, width)
    if config.image is not None:
        read_first_frame(config.image, height, width)
    if "mp4" in config.formats:
        check_background(config.background)
    check_writable(Path(config.out))
    return replace(config, num_frames=frames, height=height, width=width)


def check_writable(out: Path) -> None:
    """Before minutes are spent: can files be made there?"""
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe = out / f".writable-{os.getpid()}.tmp"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OutputError(f"out={out}: cannot be written to ({error.strerror}); give another out=") from error


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files of a folder."""
    return sum(p.stat().st_size for p in path.iterdir()) if path.is_dir() else path.stat().st_size
