"""A system's videos: which file answers which prompt, what is in it, and how different systems are made comparable."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from wan_alpha.data.errors import AlphaError, DataError, MediaError
from wan_alpha.data.folders import read_captions
from wan_alpha.data.media import MEDIA_EXTENSIONS, VIDEOS, MediaInfo, Pair, frame_files, frame_times, probe, read_frames
from wan_alpha.data.media import RGBA_PICTURES as PICTURES
from wan_alpha.data.premultiplied import looks_premultiplied, straighten
from wan_alpha.data.resize import Frames, resize_rgba, to_uint8
from wan_alpha.data.timing import at_constant_rate
from wan_alpha.evaluation.prompts import Prompt
from wan_alpha.names import SEQUENCE_METADATA

FASTEST = 240
"""Frames per second to which frames of varying length are unrolled at most."""


class VideoError(ValueError):
    """A system's folder cannot be compared with the others."""


@dataclass(frozen=True)
class Video:
    """One video of a system.

    Attributes:
        media: where it lies.
        info: frames, fps, height, width.
        has_alpha: False for a published composite.
        stored: where frames last for different times, which stored one is each frame of `info`.
    """

    media: Path | Pair
    info: MediaInfo
    has_alpha: bool
    stored: npt.NDArray[np.int64] | None = None

    @property
    def path(self) -> Path:
        """For messages."""
        return self.media.fgr if isinstance(self.media, Pair) else self.media


@dataclass
class System:
    """A folder of videos, one per prompt.

    Attributes:
        videos: prompt id -> video.
        problems: what lies there and cannot be used, each with its reason.
        unasked: names of videos that answer no prompt of the list.
    """

    name: str
    videos: dict[str, Video] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    unasked: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Shape:
    """What all videos are brought to before they are measured."""

    height: int
    width: int
    fps: float
    num_frames: int


def open_system(name: str, folder: Path, prompts: Sequence[Prompt]) -> System:
    """Find a system's videos.

    A video answers a prompt if it is called by its id (`001.mp4`, `001/`, `001_seed3.webm`), or if captions.csv, .json
    or .jsonl in the folder, or the JSON that `generate.py` leaves beside it, gives the prompt's text.  Colour and matte
    may lie apart: `fgr/001.mp4` + `pha/001.mp4`, or `001/fgr` + `001/pha`, or `001_rgb.mp4` + `001_alpha.mp4`.

    Raises:
        VideoError: nothing there answers a prompt.
    """
    if not folder.is_dir():
        raise VideoError(f"videos.{name}={folder}: expected a folder of videos, found nothing there")
    system = System(name)
    try:
        texts = _recorded_prompts(folder) | read_captions(folder)
    except DataError as error:
        raise VideoError(str(error)) from error
    for key, media in _entries(folder):
        prompt = _prompt_of(key, texts, prompts)
        if prompt is None:
            system.unasked.append(key)
        elif prompt.id in system.videos:
            system.problems.append(f"{media}: a second video for prompt {prompt.id}; the first one is measured")
        else:
            try:
                system.videos[prompt.id] = _open(media)
            except (MediaError, ValueError) as error:
                system.problems.append(str(error))
    if not system.videos:
        reasons = "\n  ".join([*system.problems, *(f"{key}: answers no prompt" for key in system.unasked[:5])])
        expected = ", ".join(p.id for p in prompts[:3])
        raise VideoError(
            f"videos.{name}={folder}: no video for any of {len(prompts)} prompts; expected names such as {expected}"
            + (f":\n  {reasons}" if reasons else "; the folder is empty")
        )
    return system


def open_clips(folder: Path) -> System:
    """Every video of a folder by its own name, whatever it shows.

    Raises:
        VideoError: there is none, or one of them cannot be used.
    """
    if not folder.is_dir():
        raise VideoError(f"networks.reference={folder}: expected a folder of videos, found nothing there")
    try:
        clips = {key: _open(media) for key, media in _entries(folder)}
    except (MediaError, ValueError) as error:
        raise VideoError(f"networks.reference={folder}: {error}") from error
    if not clips:
        raise VideoError(f"networks.reference={folder}: no video in it")
    return System("reference", clips)


def _recorded_prompts(folder: Path) -> dict[str, str]:
    """What `generate.py` wrote beside its videos: NAME.json, with the prompt of NAME.* and of frames in NAME-png."""
    found: dict[str, str] = {}
    for file in folder.glob("*.json"):
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(content, dict) and isinstance(content.get("prompt"), str):
            name = file.stem.replace(".", "_")
            found[name] = found[f"{name}-png"] = content["prompt"]
    return found


def _entries(folder: Path) -> list[tuple[str, Path | Pair]]:
    """(name, media) of what looks like a video, in order of the names; of several files of a name, one with alpha."""
    found: dict[str, Path | Pair] = {}
    halves: dict[str, dict[str, Path]] = {}
    for entry in sorted(folder.iterdir(), key=lambda entry: (entry.suffix.lower() not in MEDIA_EXTENSIONS, entry.name)):
        if entry.name.startswith(".") or entry.suffix == ".tmp":
            continue
        if entry.is_dir() and entry.name in ("fgr", "pha"):
            for file in sorted(entry.iterdir()):
                halves.setdefault(file.stem, {})[entry.name] = file
        elif entry.is_dir():
            inside = {child.stem: child for child in entry.iterdir() if child.stem in ("fgr", "pha")}
            if len(inside) == 2:
                found[entry.name] = Pair(inside["fgr"], inside["pha"])
            elif frame_files(entry):
                found[entry.name] = entry
        elif entry.suffix.lower() in VIDEOS | PICTURES:
            for suffix, half in (("_rgb", "fgr"), ("_alpha", "pha")):
                if entry.stem.endswith(suffix):
                    halves.setdefault(entry.stem.removesuffix(suffix), {})[half] = entry
                    break
            else:
                found.setdefault(entry.stem, entry)
    for key, parts in halves.items():
        if "fgr" in parts:
            found[key] = Pair(parts["fgr"], parts["pha"]) if "pha" in parts else parts["fgr"]
    return sorted(found.items())


def _prompt_of(key: str, texts: dict[str, str], prompts: Sequence[Prompt]) -> Prompt | None:
    text = texts.get(key.replace(".", "_"))
    if text is not None:
        told = [p for p in prompts if text.strip() in (p.text, p.id)]
        return _by_name(key, told) or next(iter(told), None)
    return _by_name(key, prompts)


def _by_name(key: str, prompts: Sequence[Prompt]) -> Prompt | None:
    exact = next((p for p in prompts if p.id == key), None)
    if exact is not None:
        return exact
    longest = sorted((p for p in prompts if key.startswith(p.id)), key=lambda p: -len(p.id))
    return next((p for p in longest if not key[len(p.id)].isalnum()), None)


def _open(media: Path | Pair) -> Video:
    try:
        info, has_alpha = probe(media), True
    except AlphaError:
        info, has_alpha = probe(media, need_alpha=False), False
    if (times := frame_times(media)) is not None:  # APNG and WebP store a picture that stays as one that lasts longer
        rate = float(min(FASTEST, max(1, round(1 / np.quantile(np.diff(times), 0.1)))))
        stored = at_constant_rate(times, rate)
        return Video(media, replace(info, fps=rate, num_frames=len(stored)), has_alpha, stored)
    return Video(media, replace(info, fps=_told_rate(media) or info.fps), has_alpha)


def _told_rate(media: Path | Pair) -> float | None:
    """The frame rate that `generate.py` leaves beside frames, which cannot say it themselves."""
    try:
        about = json.loads((media / SEQUENCE_METADATA).read_text(encoding="utf-8")) if isinstance(media, Path) else {}
        return float(about["fps"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def read(video: Video, shape: Shape | None = None, convert: bool = False) -> tuple[Frames, bool]:
    """A video's frames, uint8 (T, H, W, 4), or (T, H, W, 3) where it has no alpha; brought to `shape` if given.

    In time, the frame nearest to each moment of the new rate is taken; in space, the picture is reduced or enlarged to
    cover the new size (in premultiplied space) and cut in the middle.

    Args:
        video: of `open_system`.
        shape: None leaves it as it is.
        convert: divide colours that look premultiplied by their alpha.

    Returns:
        The frames, and whether they were divided.
    """
    if shape is None:
        moments = np.arange(video.info.num_frames)
    else:
        moments = np.rint(np.arange(shape.num_frames) * video.info.fps / shape.fps).astype(int)
        moments = np.minimum(moments, video.info.num_frames - 1)
    moments = moments if video.stored is None else video.stored[moments]
    frames = read_frames(video.media, count=int(moments[-1]) + 1, alpha=video.has_alpha)[moments]
    divided = bool(convert and video.has_alpha and looks_premultiplied(frames))
    if divided:
        frames = straighten(frames, str(video.path))
    return (frames if shape is None else cover(frames, (shape.height, shape.width))), divided


def cover(frames: Frames, size: tuple[int, int]) -> Frames:
    """Cut to the shape of `size` in the middle, then resize."""
    height, width = frames.shape[1:3]
    if (height, width) == size:
        return frames
    fit = min(height / size[0], width / size[1])
    window = round(size[0] * fit), round(size[1] * fit)
    top, left = (height - window[0]) // 2, (width - window[1]) // 2
    frames = frames[:, top : top + window[0], left : left + window[1]]
    if frames.shape[-1] == 4:
        return to_uint8(resize_rgba(frames, size))
    shrinking = size[0] < frames.shape[1]
    how = cv2.INTER_AREA if shrinking else cv2.INTER_LINEAR
    return np.stack([cv2.resize(f, (size[1], size[0]), interpolation=how).astype(np.uint8) for f in frames])


def common_shape(
    systems: Sequence[System], ids: Sequence[str], how: str, size: Sequence[int] | None = None,
    fps: float | None = None, num_frames: int | None = None,
) -> Shape | None:  # fmt: skip
    """What the videos of `ids` are brought to; None if they are measured as they are.

    Args:
        systems: all that are compared.
        ids: prompts that every system answers.
        how: "refuse": they must agree already.  "resample": to the given size, rate and length, by default the smallest
            size, the lowest rate and the shortest duration among them.  "native": measured as they are.
        size, fps, num_frames: see "resample".

    Raises:
        VideoError: "refuse", and they differ; or sizes, rates or lengths that cannot be.
    """
    if how != "resample" and (size or fps or num_frames):
        raise VideoError(f"align.size, align.fps and align.num_frames are for align.how=resample, not for {how}")
    infos = {(s.name, i): s.videos[i].info for s in systems for i in ids}
    kinds: dict[tuple[int, int, float, int], list[str]] = {}
    for (name, i), x in infos.items():
        kinds.setdefault((x.height, x.width, round(x.fps, 3), x.num_frames), []).append(f"{name}/{i}")
    if how == "native":
        return None
    if how == "refuse" and len(kinds) > 1:
        seen = "\n  ".join(
            f"{h}x{w}, {n} frames at {r:g} fps: {', '.join(names[:4])}{', ...' if len(names) > 4 else ''}"
            for (h, w, r, n), names in kinds.items()
        )
        raise VideoError(
            f"the videos differ in size, rate or length:\n  {seen}\nGive align.how=resample (to the smallest, or to "
            "align.size=[H,W] align.fps=N align.num_frames=N), or align.how=native to measure each as it is"
        )
    if how == "refuse":
        return None
    smallest = min(infos.values(), key=lambda x: x.height * x.width)
    rate = fps or min(x.fps for x in infos.values())
    shortest = min(x.num_frames / x.fps for x in infos.values())
    length = num_frames or max(1, round(shortest * rate))
    if length - 1 >= shortest * rate:
        raise VideoError(
            f"align.num_frames={length} at {rate:g} fps last longer than the shortest video, {shortest:.3g} s: give at "
            f"most {max(1, round(shortest * rate))}"
        )
    height, width = size or (smallest.height, smallest.width)
    return Shape(height, width, rate, length)
