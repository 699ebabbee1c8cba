"""FVD: a figure of a system's whole set of videos, from a vector of each, which is kept: nothing is computed twice."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from safetensors.torch import load_file, save
from torch import Tensor

from wan_alpha.data.media import Pair
from wan_alpha.evaluating.record import write_bytes
from wan_alpha.evaluation.frechet import Moments, describe_file, frechet_distance
from wan_alpha.evaluation.networks import VideoFeatures
from wan_alpha.evaluation.statistics import Estimate
from wan_alpha.evaluation.summary import Summary
from wan_alpha.evaluation.videos import Shape, System, read


def add_fvd(
    summary: Summary, systems: Sequence[System], prompts: Sequence[str], shape: Shape | None, convert: bool,
    network: VideoFeatures, reference: System, out: Path,
) -> None:  # fmt: skip
    """FVD of every system to the reference clips, all on mid-grey.

    Vectors are kept in `out/fvd`, by the network's hash and the videos' sizes in bytes: the same command goes on.
    """
    described = describe_file(network.path)
    kept = out / "fvd" / described.split()[-1][:16]
    truth = _moments(network, reference, list(reference.videos), shape, convert, kept / "reference")
    for s in systems:
        moments = _moments(network, s, prompts, shape, convert, kept / "systems" / s.name)
        distance = frechet_distance(moments, truth)
        nan = float("nan")
        summary.systems[s.name]["fvd"] = Estimate(distance, nan, nan, moments.count, int(distance != distance))
    summary.facts["fvd"] = {"network": described, "reference clips": truth.count}


def _moments(
    network: VideoFeatures, system: System, names: Sequence[str], shape: Shape | None, convert: bool, kept: Path
) -> Moments:
    moments = Moments()
    for name in names:
        moments.add(_features(network, system, name, shape, convert, kept))
    return moments


def _features(
    network: VideoFeatures, system: System, name: str, shape: Shape | None, convert: bool, kept: Path
) -> Tensor:
    """(1, D) of one video, from its file if there is one."""
    video = system.videos[name]
    file = kept / f"{name}-{video_bytes(video.media)}.safetensors"
    if file.exists():
        return load_file(file)["features"]
    features = network(read(video, shape, convert)[0])
    write_bytes(file, save({"features": features.cpu().contiguous()}))
    return features


def video_bytes(media: Path | Pair) -> int:
    """Size of a video: of its file, of all its frames, or of both parts of a pair."""
    parts = media if isinstance(media, Pair) else (media,)
    return sum(f.stat().st_size for part in parts for f in (part.iterdir() if part.is_dir() else [part]))
