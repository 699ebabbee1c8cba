"""What one process of `data_prep.encode` does: samples of a shard through the VAE and the text encoder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from annotated_types import Ge
from torch import Tensor

from wan_alpha.baselines.kinds import load_latent_codec
from wan_alpha.data.captions import CaptionStyle
from wan_alpha.data.dataset import HELD_OUT_SEED, ClipDataset, Sample, collate
from wan_alpha.data.folders import FolderSource
from wan_alpha.data.latents import INSTEAD, LatentEntry, LatentsError, entry_key, read_latent_header, write_latent_shard
from wan_alpha.data.shards import ShardSource
from wan_alpha.data.source import SPLITS, ClipSource
from wan_alpha.models.base import check_size, spatial_stride, temporal_stride
from wan_alpha.models.identity import codec_identity, text_identity
from wan_alpha.models.image_condition import condition_latent
from wan_alpha.models.image_encoder import ImageEncoder, first_pictures, wants_features
from wan_alpha.models.text import TextEncoder, cut_padding
from wan_alpha.rendering import cell_means
from wan_alpha.schema import Count, Natural, Share

Zoom = Annotated[float, Ge(1)]
DTYPES = ("float16", "bfloat16", "float32")


@dataclass(frozen=True)
class Options:
    """Encode clips with the RGBA VAE and captions with the text encoder, into shards of latents."""

    root: Annotated[Path, "shards, or a folder of clips"]
    out: Annotated[Path, "where the latents go"]
    base: Annotated[str, "tiny, a known name, a hub id or a path"] = "tiny"
    adapters: Annotated[str | None, "of the RGBA VAE: tiny, a run or a directory; null: opaque video"] = "tiny"
    variants: Annotated[Count, "samples of every clip: windows, crops and background colours"] = 4
    num_frames: Annotated[Count, "frames of a sample, 1 + 4k"] = 5
    height: Annotated[Count, "of a sample in pixels"] = 64
    width: Annotated[Count, "of a sample in pixels"] = 64
    frame_stride: Annotated[Count, "take every so-manyth frame"] = 1
    zoom: Annotated[Zoom, "random crops up to this zoom, from 1"] = 1.5
    flip: Annotated[bool, "mirror every second sample"] = True
    stills: Annotated[str, "smooth, integer or static: how a picture becomes a clip"] = "smooth"
    seed: Annotated[int, "of the order and of every training sample's window and colour"] = 0
    val_clips: Annotated[Count | None, "encode the first so many held-out clips; null: all"] = None
    val_share: Annotated[Share, "share of clips held out, where the folder does not say"] = 0.1
    task: Annotated[str, "t2v, or i2v: also each clip's first frame, as a latent and as the base's CLIP sees it"] = (
        "t2v"
    )
    text: Annotated[bool, "also embed the captions"] = True
    captions: Annotated[str, "composed of captions and labels as in training by default, or plain: as they are"] = (
        "composed"
    )
    dtype: Annotated[str, "of the stored latents: float16 is closer than bfloat16, for they are near unit scale"] = (
        "float16"
    )
    batch: Annotated[Count, "samples that are encoded at once"] = 4
    shard_samples: Annotated[Count, "samples in a shard"] = 256
    devices: Annotated[str, "one process each: cpu, cpu,cpu or cuda:0,cuda:1"] = "cpu"
    part: Annotated[Natural, "which part of the shards this machine encodes, from 0"] = 0
    parts: Annotated[Count, "how many machines share the shards"] = 1
    wandb: Annotated[str, "disabled, offline or online: note at Weights & Biases what was made of what"] = "disabled"
    project: Annotated[str, "of Weights & Biases"] = "wan-alpha"


@dataclass(frozen=True)
class Job:
    """Samples first ... last - 1 of a split, for the file `name`."""

    name: str
    split: str
    first: int
    last: int


class Encoder:
    """Everything one process needs, loaded once."""

    def __init__(self, options: Options, device: str) -> None:
        self.options, self.device = options, device
        self.codec = load_latent_codec(options.base, options.adapters).to(device)
        self.text = TextEncoder.from_pretrained(options.base).to(device) if options.text else None
        pictured = options.task == "i2v" and wants_features(options.base)
        self.image = ImageEncoder.from_pretrained(options.base).to(device) if pictured else None
        check_size(self.codec.vae, options.num_frames, options.height, options.width)
        self.identity = self._identity()
        self.datasets = {split: self._dataset(split) for split in SPLITS}
        self.words = {clip.key: clip.caption for data in self.datasets.values() for clip in data.source.clips}

    def _identity(self) -> dict[str, Any]:
        o = self.options
        text = None if self.text is None else text_identity(self.text.encoder)
        image = None if self.image is None else text_identity(self.image.encoder)
        clip = {name: getattr(o, name) for name in ("num_frames", "height", "width", "dtype", "task")}
        return codec_identity(self.codec) | {"text": text, "image": image} | clip

    def _dataset(self, split: str) -> ClipDataset:
        o = self.options
        augment = split == "train"
        return ClipDataset(
            open_clips(o, split),
            o.num_frames,
            (o.height, o.width),
            o.seed if augment else HELD_OUT_SEED,
            (o.frame_stride, o.frame_stride),
            augment=augment,
            scale=(1.0, o.zoom) if augment else (1.0, 1.0),
            stills=o.stills,  # type: ignore[arg-type]
            captions=CaptionStyle() if o.captions == "composed" else None,
            flip=o.flip,
        )

    def jobs(self) -> list[Job]:
        """All shards of this part, in order."""
        o = self.options
        held_out = len(self.datasets["val"])
        counts = {"train": len(self.datasets["train"]) * o.variants, "val": min(o.val_clips or held_out, held_out)}
        return [
            Job(f"{split}-{first // o.shard_samples:06d}.safetensors", split, first,
                min(first + o.shard_samples, counts[split]))
            for split in SPLITS for first in range(0, counts[split], o.shard_samples)
        ]  # fmt: skip

    def plan(self, split: str, n: int) -> tuple[dict[str, Any], str]:
        """The window and caption that sample `n` is going to have, without reading it."""
        dataset, o = self.datasets[split], self.options
        source, index = dataset.source, dataset.clip(n)
        clip = source.clips[index]
        window = {
            "clip": clip.key, "frames": clip.num_frames, "crc32": source.checksum(index), "number": n, "split": split,
            "seed": dataset.seed, "num_frames": o.num_frames, "stride": o.frame_stride, "size": [o.height, o.width],
            "zoom": o.zoom, "words": clip.caption, "flip": o.flip, "stills": o.stills,
        }  # fmt: skip
        return window, dataset.caption(n)

    def is_done(self, job: Job) -> bool:
        """Whether a shard is there and is what would be made now."""
        try:
            identity, entries = read_latent_header(self.options.out / job.name)
        except LatentsError:
            return False
        numbers = list(range(job.first, job.last))
        if identity != self.identity or [entry.number for entry in entries] != numbers:
            return False
        return all(self._fits(job.split, entry) for entry in entries)

    def _fits(self, split: str, entry: LatentEntry) -> bool:
        window, caption = self.plan(split, entry.number)
        stored = {name: value for name, value in entry.window.items() if name != INSTEAD}
        replaced = INSTEAD in entry.window
        return (
            stored == window
            and (replaced or entry.caption == caption)
            and entry.key == entry_key(self.identity, entry.window, entry.caption)
        )

    @torch.no_grad()
    def encode(self, job: Job) -> None:
        """Write one shard."""
        entries: list[LatentEntry] = []
        tensors: dict[str, Tensor] = {}
        captions: dict[str, int] = {}
        for first in range(job.first, job.last, self.options.batch):
            numbers = range(first, min(first + self.options.batch, job.last))
            samples = [self.datasets[job.split][n] for n in numbers]
            for n, sample, own in zip(numbers, samples, self._tensors(samples), strict=True):
                tensors |= {f"{name}.{n}": t for name, t in own.items()}
                entries.append(self._entry(job.split, n, sample, captions))
        if self.text is not None:
            tensors |= {f"text.{place}": self._embed(caption) for caption, place in captions.items()}
        write_latent_shard(self.options.out / job.name, self.identity, entries, tensors)

    def _tensors(self, samples: list[Sample]) -> Iterator[dict[str, Tensor]]:
        batch: Any = collate(samples)
        moved = {k: v.to(self.device) if torch.is_tensor(v) else v for k, v in batch.items()}
        dtype = getattr(torch, self.options.dtype)
        latent = self.codec.encode(moved)
        strides = temporal_stride(self.codec.vae), spatial_stride(self.codec.vae)
        # Shares of 64 to 1,024 pixels: float16 holds them exactly.
        coverage = cell_means((moved["alpha"] > 0).float(), *strides).half()
        found = {"latent": latent.to(dtype), "coverage": coverage}
        if self.options.task == "i2v":
            found["condition"] = condition_latent(self.codec, moved).to(dtype)
        if self.image is not None:
            found["image"] = self.image(first_pictures(moved["rgb"], moved["alpha"])).to(dtype)
        for i in range(len(samples)):
            yield {name: tensor[i].cpu().contiguous() for name, tensor in found.items()}

    def _entry(self, split: str, n: int, sample: Sample, captions: dict[str, int]) -> LatentEntry:
        window, caption = self.plan(split, n)[0], sample["caption"]
        if sample["key"] != window["clip"]:  # it could not be read; what is stored is the next one
            window |= {INSTEAD: {"clip": sample["key"], "words": self.words[sample["key"]]}}
        place = captions.setdefault(caption, len(captions)) if self.text is not None else None
        key, colour = entry_key(self.identity, window, caption), sample["background"].tolist()
        return LatentEntry(n, key, sample["key"], caption, colour, window, place, sample["problem"])

    def _embed(self, caption: str) -> Tensor:
        assert self.text is not None
        embedding = cut_padding(self.text([caption]))[0]
        return embedding.to(getattr(torch, self.options.dtype)).cpu().contiguous()


def open_clips(options: Options, split: str) -> ClipSource:
    """The clips of one split, from shards or from a folder."""
    if any(options.root.glob("*-*.tar")):
        return ShardSource(options.root, split)
    return FolderSource(options.root, split, val_share=options.val_share, curated=True)
