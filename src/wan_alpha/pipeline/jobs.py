"""What is to be made: prompts times seeds, the files of each, and which of them are there already."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from wan_alpha.evaluation.prompts import PromptError, load_prompts
from wan_alpha.interop.adapter_files import AdapterPaths, find_adapters
from wan_alpha.models.adapters import DESCRIPTION, TENSORS, AdapterError
from wan_alpha.names import is_text, safe_name
from wan_alpha.pipeline.config import GenerateConfig
from wan_alpha.pipeline.video import FORMATS, OutputError, remove_output

# Where a video's settings differ from those it would be made with now, these keys decide.
DECISIVE = ("task", "base", "negative_prompt", "num_frames", "height", "width", "num_inference_steps",
            "guidance_scale", "shift", "fps", "edges")  # fmt: skip


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
        PromptError: no prompt, an empty one, one that is no text, or two that would get the same name.
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
        if not is_text(prompt or ""):
            raise PromptError(f"the prompt {prompt!r} holds bytes that are no text in UTF-8")
        for seed in seeds:
            # An id names its files alone, so that `evaluate.py` finds them; a prompt shares its name with its seeds.
            name = identity if identity and len(seeds) == 1 else f"{identity or safe_name(prompt)}-s{seed}"
            if name in jobs and jobs[name].prompt != prompt:
                raise PromptError(f"two prompts would both be called {name!r}: {jobs[name].prompt!r} and {prompt!r}")
            jobs[name] = Job(name, prompt, seed)
    return list(jobs.values())


def refuse_bytes(config: GenerateConfig) -> None:
    """A shell passes on any bytes as a prompt or a name; those that are no text cannot be shown, encoded or written.

    Raises:
        PromptError: names the key.
    """
    for key, value in asdict(config).items():
        for text in value.values() if isinstance(value, dict) else value if isinstance(value, list) else [value]:
            if isinstance(text, str) and not is_text(text):
                raise PromptError(f"{key}={text!r} holds bytes that are no text in UTF-8")


def read_prompts(source: str) -> list[tuple[str, str]]:
    """(id, prompt) of a list, see `load_prompts`; without ids of its own, a prompt names its files itself: id ""."""
    return [("" if prompt.numbered else prompt.id, prompt.text) for prompt in load_prompts(source)]


def settings(config: GenerateConfig) -> dict[str, Any]:
    """What decides how a video looks, beside prompt and seed; JSON-able.

    The base counts by its name and place; adapters, image and the like by what is in their files.
    """
    chosen = {key: value for key, value in json.loads(json.dumps(asdict(config))).items() if key in DECISIVE}
    return chosen | digests(config.adapters, distill=config.distill, preview=config.preview, image=config.image)


def digests(adapters: AdapterPaths, **files: str | Path | None) -> dict[str, str | None]:
    """What is in the files that decide how a video looks: `vae_sha256`, `dit_sha256` and so on, in 16 digits.

    Args:
        adapters: see `find_adapters`.
        files: further ones by name; a `distill` takes the place of that of the adapters.

    Raises:
        AdapterError: one of them is missing or cannot be read.
    """
    found = find_adapters(adapters)
    parts = {
        "vae": found.vae,
        "dit": found.dit,
        "dit_2": found.dit_2,
        **files,
        "distill": files.get("distill") or found.distill,
    }
    return {f"{name}_sha256": _digest(Path(part)) if part else None for name, part in parts.items()}


def missing_files(job: Job, config: GenerateConfig, wanted: Mapping[str, Any]) -> dict[str, Path]:
    """The files of a job that are still to be written; `wanted` is what `settings` gives.

    Raises:
        OutputError: files of that name are there but were made otherwise, or nothing says how.
    """
    files = job.files(Path(config.out), list(config.formats))
    present = _present(job, config)
    made = _read_record(job.record(Path(config.out)))
    if made is None and present.keys() - (files.keys() if config.overwrite else set()):
        raise OutputError(
            f"{next(iter(present.values()))} exists, and nothing says how it was made; give another out=, or move it "
            "away"
        )
    if config.overwrite:
        return files
    if made is not None and present and (differing := _differing(job, config, wanted, made, present)):
        raise OutputError(
            f"{next(iter(present.values()))} exists, made otherwise: {'; '.join(differing)}. Give another out=, or "
            "overwrite=true"
        )
    return {name: path for name, path in files.items() if name not in present}


def replace_record(job: Job, config: GenerateConfig, wanted: Mapping[str, Any], about: dict[str, Any]) -> None:
    """Say how the video is made, before its first file appears; files that were made otherwise go."""
    record = job.record(Path(config.out))
    made, present = _read_record(record), _present(job, config)
    if present and (made is None or _differing(job, config, wanted, made, present)):
        for path in present.values():
            remove_output(path)
    background = config.background if "mp4" in config.formats else (made or {}).get("background")
    content = {"prompt": job.prompt, "seed": job.seed, **wanted, "background": background, "made_with": about}
    partial = record.with_name(f".{record.name}.tmp")
    partial.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(partial, record)


def _present(job: Job, config: GenerateConfig) -> dict[str, Path]:
    """The files of a job that are there, in any format."""
    return {name: path for name, path in job.files(Path(config.out), list(FORMATS)).items() if path.exists()}


def _differing(
    job: Job, config: GenerateConfig, wanted: Mapping[str, Any], made: Mapping[str, Any], present: Mapping[str, Path]
) -> list[str]:
    """What a record says otherwise; the background counts for mp4 alone."""
    now = {"prompt": job.prompt, "seed": job.seed, **wanted}
    if "mp4" in present and "mp4" in config.formats:
        now["background"] = config.background
    return [f"{key} was {made.get(key)!r}, now {value!r}" for key, value in now.items() if made.get(key) != value]


def _digest(path: Path) -> str:
    """SHA-256 of a file, or of the files of an adapters' folder."""
    files = [path / DESCRIPTION, path / TENSORS] if path.is_dir() else [path]
    digest = hashlib.sha256()
    try:
        for file in files:
            with file.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
    except OSError as error:
        raise AdapterError(f"{path} cannot be read: {error.strerror or error}") from error
    return digest.hexdigest()[:16]


def _read_record(record: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None
