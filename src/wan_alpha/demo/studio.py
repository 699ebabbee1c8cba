"""What the demo page does, without the page: make videos, remember them on disk, write them in any format."""

from __future__ import annotations

import json
import logging
import os
import shutil
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from wan_alpha.data.media import probe, read_frames
from wan_alpha.names import is_text, safe_name
from wan_alpha.pipeline.composite import composite
from wan_alpha.pipeline.pipeline import AlphaWanPipeline
from wan_alpha.pipeline.pixels import to_8_bit
from wan_alpha.pipeline.video import FORMATS, Video

log = logging.getLogger(__name__)

LONGEST_PROMPT = 1000
MOST_STEPS = 100
MOST_PIXELS = 81 * 720 * 1280
FIELDS = ("prompt", "negative_prompt", "seed", "steps", "guidance", "frames", "height", "width")
Progress = Callable[[float, str], None]


class RequestError(ValueError):
    """What was asked for on the page cannot be done."""


@dataclass(frozen=True)
class Entry:
    """One video of the history.

    Attributes:
        name: of its files, without suffix; also its key.
        about: prompt, seed, steps and the like.
        folder: where the files are.
    """

    name: str
    about: dict[str, Any]
    folder: Path

    @property
    def preview(self) -> Path:
        """Animated WebP."""
        return self.folder / f"{self.name}.webp"

    @property
    def thumbnail(self) -> Path:
        """Middle frame on a checkerboard."""
        return self.folder / f"{self.name}.thumb.png"

    @property
    def master(self) -> Path:
        """FFV1, lossless: what every other format is made of."""
        return self.folder / f"{self.name}.mkv"

    @property
    def caption(self) -> str:
        return f"{self.about['prompt']} · seed {self.about['seed']}"


class Studio:
    """Makes one video at a time and keeps what it made in a folder, which the next start shows again."""

    def __init__(self, pipe: AlphaWanPipeline, folder: Path, model: Mapping[str, str | None]) -> None:
        """`model`: tells this base and these adapters from others, see `pipeline.jobs.digests`."""
        self.pipe, self.folder, self.model = pipe, folder.resolve(), dict(model)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._one_at_a_time = threading.Lock()

    def history(self) -> list[Entry]:
        """What was made, newest first; damaged records are passed over."""
        entries = []
        for record in sorted(self.folder.glob("*.json"), key=lambda p: p.stat().st_mtime_ns, reverse=True):
            try:
                about = json.loads(record.read_text(encoding="utf-8"))
                entry = Entry(record.stem, about, self.folder)
                complete = {"prompt", "seed"} <= about.keys() and entry.master.is_file() and entry.preview.is_file()
            except (OSError, ValueError, AttributeError):
                complete = False
            if complete:
                entries.append(entry)
        return entries

    def entry(self, name: str) -> Entry:
        """The entry of that name; a name from the page is looked up, never joined to a path."""
        for entry in self.history():
            if entry.name == name:
                return entry
        raise RequestError("this video is no longer there; make it again")

    def make(self, wish: Mapping[str, Any], progress: Progress = lambda share, what: None) -> Entry:
        """Sample, decode and store one video; the same request to the same model again returns what is there.

        Args:
            wish: prompt, negative_prompt, seed, steps, guidance, frames, height, width.
            progress: told the share that is done, and what is being done.

        Raises:
            RequestError: a value is out of range, with what is allowed.
        """
        request = self._checked(wish)
        key = json.dumps(request | self.model, sort_keys=True)
        name = f"{safe_name(request['prompt'])}-s{request['seed']}-{safe_name(key)[-6:]}"
        with self._one_at_a_time:
            entry = Entry(name, request | self.model | self.pipe.adapters, self.folder)
            if not (entry.master.is_file() and (self.folder / f"{name}.json").is_file()):
                self._store(entry, self._sample(request, progress))
            os.utime(self.folder / f"{name}.json")  # to the front of the history
        return entry

    def export(self, name: str, kind: str, background: str = "checkerboard") -> Path:
        """A file of the wanted format; sequences become one zip.

        Raises:
            RequestError: no such video or format.
        """
        if kind not in FORMATS:
            raise RequestError(f"no such format: {kind}; there are {', '.join(FORMATS)}")
        entry = self.entry(name)
        if kind == "mkv":
            return entry.master
        if kind == "webp":
            return entry.preview
        video = self.load(entry)
        exports = self.folder / "exports"
        with self._one_at_a_time:
            if FORMATS[kind].suffix:
                target = exports / f"{name}{FORMATS[kind].suffix}"
                if not target.exists() or kind == "mp4":  # its background may be another one now
                    video.save(target, overwrite=True, background=background)
                return target
            archive = exports / f"{name}-{kind}.zip"
            if not archive.exists():
                frames = video.save(exports / f"{name}-{kind}", format=kind, overwrite=True)
                shutil.make_archive(str(archive.with_suffix("")), "zip", frames)
                shutil.rmtree(frames)
            return archive

    def load(self, entry: Entry) -> Video:
        """The video again, from its lossless master."""
        info = probe(entry.master)
        frames = read_frames(entry.master, count=info.num_frames)
        rgba = torch.from_numpy(frames).permute(3, 0, 1, 2)[None] / 255
        return Video(rgba[:, :3] * 2 - 1, rgba[:, 3:], info.fps, entry.about)

    def _checked(self, wish: Mapping[str, Any]) -> dict[str, Any]:
        prompt, negative_prompt = (str(wish.get(key) or "").strip() for key in ("prompt", "negative_prompt"))
        numbers = {name: wish.get(name) for name in ("seed", "steps", "guidance", "frames", "height", "width")}
        if not prompt:
            raise RequestError("Say what is to be seen: the prompt is empty.")
        if not is_text(prompt + negative_prompt):
            raise RequestError("The prompt holds signs that are no text.")
        if max(len(prompt), len(negative_prompt)) > LONGEST_PROMPT:
            raise RequestError(f"A prompt has at most {LONGEST_PROMPT} characters.")
        for name, value in numbers.items():
            if not isinstance(value, int | float) or not np.isfinite(value):
                raise RequestError(f"{name} is no number.")
        guidance = float(numbers.pop("guidance") or 0)
        whole = {name: int(value or 0) for name, value in numbers.items()}
        limits = {"seed": (0, 2**63 - 1), "steps": (1, MOST_STEPS), "frames": (1, 10_000)}
        for name, (low, high) in limits.items():
            if not low <= whole[name] <= high:
                raise RequestError(f"{name} is {whole[name]}; it must be from {low} to {high}.")
        if not 0 <= guidance <= 30:
            raise RequestError("guidance must be from 0 to 30.")
        try:
            self.pipe.form.check_size(whole["height"], whole["width"])
        except ValueError as error:
            raise RequestError(str(error)) from error
        if whole["frames"] * whole["height"] * whole["width"] > MOST_PIXELS:
            raise RequestError("That is more than 81 frames of 720 x 1280: take fewer or smaller frames.")
        return {"prompt": prompt, "negative_prompt": negative_prompt, "guidance": guidance, **whole}

    def _sample(self, request: dict[str, Any], progress: Progress) -> Video:
        def advance(_: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            progress((step + 1) / (request["steps"] + 1), f"step {step + 1} of {request['steps']}")
            return tensors

        video = self.pipe(
            request["prompt"],
            negative_prompt=request["negative_prompt"] or None,
            num_frames=request["frames"],
            height=request["height"],
            width=request["width"],
            num_inference_steps=request["steps"],
            guidance_scale=request["guidance"],
            seed=request["seed"],
            callback_on_step_end=advance,
        )
        return video.cleaned()

    def _store(self, entry: Entry, video: Video) -> None:
        video.save(entry.preview, overwrite=True)
        middle = video.pixels()[[video.alpha.shape[2] // 2]]
        Image.fromarray(to_8_bit(composite(middle))[0]).save(entry.thumbnail)
        video.save(entry.master, overwrite=True)
        partial = self.folder / f".{entry.name}.json.tmp"
        partial.write_text(json.dumps(entry.about, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
        os.replace(partial, self.folder / f"{entry.name}.json")  # last: what has a record is complete
