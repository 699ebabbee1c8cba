"""What is to be made: prompts times seeds, the files of each, and which of them are there already."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..evaluation.prompts import PromptError, load_prompts
from .config import GenerateConfig
from .names import safe_name
from .video import FORMATS, OutputError

# Where a video's settings differ from those it would be made with now, these keys decide.
DECISIVE = ("task", "base", "negative_prompt", "image", "adapters", "distill", "preview", "num_frames", "height",
            "width", "num_inference_steps", "guidance_scale", "shift", "fps", "edges")  # fmt: skip


@dataclass(frozen=True)
class Job:
    """One video.

    Attributes:
        name: of its files, without suffix.
        prompt, seed: what it is made from.
    """

    name: str
    prompt: str
    seed: int

    def files(self, out: Path, formats: list[str]) -> dict[str, Path]:
        """Format -> where it goes; sequences are folders."""
        return {f: out / f"{self.name}{FORMATS[f].suffix or f'-{f}'}" for f in formats}

    def record(self, out: Path) -> Path:
        """The JSON that says how the video was made."""
        return out / f"{self.name}.json"


def plan(config: GenerateConfig) -> list[Job]:
    """Every video that is asked for, in order.

    Raises:
        PromptError: no prompt, an empty one, or two that would get the same name.
    """
    given = [("", config.prompt)] if config.prompt is not None else []
    given += read_prompts(config.prompts) if config.prompts else []
    if not given:
        raise PromptError('no prompt: give prompt="..." or prompts=FILE')
    seeds = config.seed if isinstance(config.seed, list) else [config.seed]
    jobs: dict[str, Job] = {}
    for identity, prompt in given:
        if not (prompt or "").strip():
            raise PromptError('the prompt is empty: say what is to be seen, prompt="a parrot flying"')
        for seed in seeds:
            # An id names its files alone, so that `evaluate.py` finds them; a prompt shares its name with its seeds.
            name = identity if identity and len(seeds) == 1 else f"{identity or safe_name(prompt)}-s{seed}"
            if name in jobs and jobs[name].prompt != prompt:
                raise PromptError(f"two prompts would both be called {name!r}: {jobs[name].prompt!r} and {prompt!r}")
            jobs[name] = Job(name, prompt, seed)
    return list(jobs.values())


def read_prompts(source: str) -> list[tuple[str, str]]:
    """(id, prompt) of a list, see `load_prompts`; without ids of its own, a prompt names its files itself: id "".

    Raises:
        PromptError: it cannot be read, is empty, or an id is no file name.
    """
    found = [("" if prompt.numbered else prompt.id, prompt.text) for prompt in load_prompts(source)]
    if odd := [identity for identity, _ in found if identity and safe_name(identity) != identity.lower()]:
        raise PromptError(f"prompts={source}: id {odd[0]!r} cannot be a file name; use letters, digits and hyphens")
    return found


def settings(config: GenerateConfig) -> dict[str, Any]:
    """What decides how a video looks, beside prompt and seed; JSON-able."""
    return {key: value for key, value in json.loads(json.dumps(asdict(config))).items() if key in DECISIVE}


def missing_files(job: Job, config: GenerateConfig) -> dict[str, Path]:
    """The files of a job that are still to be written.

    Raises:
        OutputError: files of that name are there but were made otherwise.
    """
    out = Path(config.out)
    files = job.files(out, list(config.formats))
    if config.overwrite:
        return files
    present = {name: path for name, path in files.items() if path.exists()}
    if present:
        made, wanted = _read_record(job.record(out)), {"prompt": job.prompt, "seed": job.seed} | settings(config)
        if made is None:
            raise OutputError(
                f"{next(iter(present.values()))} exists, and nothing says how it was made; give another out="
            )
        differing = [f"{k} was {made.get(k)!r}, now {v!r}" for k, v in wanted.items() if made.get(k) != v]
        if differing:
            raise OutputError(
                f"{next(iter(present.values()))} exists, made otherwise: {'; '.join(differing)}. Give another out=, or "
                "overwrite=true"
            )
    return {name: path for name, path in files.items() if name not in present}


def write_record(job: Job, config: GenerateConfig, about: dict[str, Any]) -> None:
    """Say how the video is made, before its first file appears."""
    record = job.record(Path(config.out))
    content = {"prompt": job.prompt, "seed": job.seed, **settings(config), "made_with": about}
    partial = record.with_name(f".{record.name}.tmp")
    partial.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(partial, record)


def _read_record(record: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None
