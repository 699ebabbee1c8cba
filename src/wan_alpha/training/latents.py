"""Latents that are made once and trained on many times.

Small bases spend most of a step in the VAE.  A bank encodes a number of variants of every clip (windows, crops,
colours) before training; a sample is then one of them, in an order of its own.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.progress import track
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from wan_alpha.data.dataset import ClipDataset, collate
from wan_alpha.data.order import locate
from wan_alpha.data.rewording import TRANSPARENT, Rewording, vary_caption
from wan_alpha.losses.shifted_noise import object_masks
from wan_alpha.models.base import spatial_stride, temporal_stride
from wan_alpha.models.codecs import AlphaCodec, Codec
from wan_alpha.rendering import COLOUR_NAMES, COLOURS
from wan_alpha.training.config import DataConfig
from wan_alpha.training.data import ClipDataModule, pins, validation_share
from wan_alpha.training.strategies import data_share

_CAPTION_STREAM = 4  # keeps the words apart from a sample's other random numbers
ENCODE_BATCH = 8


class Bank(NamedTuple):
    """Encoded samples: latents float16 (M, z, T', h, w), and of each its caption, key, and background's name.

    masks: G of version 2's shifted noise, float16 (M, T', h, w), or (0,) where it is not wanted.
    """

    latents: Tensor
    masks: Tensor
    captions: list[str]
    keys: list[str]
    grounds: list[str]


TENSORS, LISTS = Bank._fields[:2], Bank._fields[2:]


@torch.no_grad()
def encode_bank(
    dataset: ClipDataset,
    codec: Codec,
    count: int,
    title: str,
    device: torch.device | str = "cpu",
    masked: bool = False,
) -> Bank:
    """Encode samples 0 ... count - 1 of `dataset`, with masks if `masked`."""
    strides = spatial_stride(codec.vae), temporal_stride(codec.vae)
    latents, masks, captions, keys, grounds = [], [torch.zeros(0)], [], [], []
    for first in track(range(0, count, ENCODE_BATCH), description=title):
        batch: Any = collate([dataset[n] for n in range(first, min(first + ENCODE_BATCH, count))])
        moved = {k: v.to(device) if torch.is_tensor(v) else v for k, v in batch.items()}
        latents.append(codec.encode(moved).half().cpu())
        if masked:
            masks.append(object_masks(batch["alpha"], *strides))
        captions += batch["caption"]
        keys += batch["key"]
        grounds += [ground_name(codec, colour) for colour in batch["background"]]
    every = torch.cat(masks[1:]) if masked else masks[0]
    return Bank(torch.cat(latents).contiguous(), every.half().contiguous(), captions, keys, grounds)


def ground_name(codec: Codec, colour: Tensor) -> str:
    """What a caption may say of the background: its colour, or that there is none."""
    if isinstance(codec, AlphaCodec):
        return TRANSPARENT
    return COLOUR_NAMES[int((colour == COLOURS).all(1).nonzero()[0, 0])]


def bank_key(parts: dict[str, Any]) -> str:
    """Sixteen characters that are equal when the bank would be."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def load_or_encode(file: Path, key: str, encode: Any) -> Bank:
    """The bank in `file` if it has `key`; else a new one, written there."""
    if file.exists():
        with safe_open(file, framework="pt") as handle:
            header = handle.metadata() or {}
            if header.get("key") == key and set(TENSORS) <= set(handle.keys()):
                tensors = (handle.get_tensor(name) for name in TENSORS)
                return Bank(*tensors, *(json.loads(header[name]) for name in LISTS))
    bank = encode()
    file.parent.mkdir(parents=True, exist_ok=True)
    header = {"key": key} | {name: json.dumps(getattr(bank, name)) for name in LISTS}
    partial = file.with_name(f"{file.stem}-{socket.gethostname()}-{os.getpid()}.tmp")  # every rank writes its own
    save_file({name: getattr(bank, name) for name in TENSORS}, partial, metadata=header)
    os.replace(partial, file)
    return bank


class LatentDataset(Dataset[dict[str, Any]]):
    """Sample n of a bank, in the endless shuffled order of its own seed; `shuffle=False` takes them as they come.

    A sample holds latent float32 (z, T', h, w), caption, key, index (n) and problem ("").
    """

    def __init__(self, bank: Bank, seed: int, style: Rewording, shuffle: bool = True) -> None:
        self.bank, self.seed, self.style, self.shuffle = bank, seed, style, shuffle

    def __len__(self) -> int:
        return len(self.bank.keys)

    def __getitem__(self, n: int) -> dict[str, Any]:
        place = locate(n, len(self), self.seed)[1] if self.shuffle else n
        caption = self.bank.captions[place]
        if self.style == "varied" and self.shuffle:
            rng = np.random.default_rng((self.seed, n, _CAPTION_STREAM))
            caption = vary_caption(caption, self.bank.grounds[place], rng)
        mask = {"mask": self.bank.masks[place].float()} if len(self.bank.masks) else {}
        return mask | {
            "latent": self.bank.latents[place].float(),
            "caption": caption,
            "key": self.bank.keys[place],
            "index": n,
            "problem": "",
        }


def collate_latents(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """Stack samples into a batch."""
    mask = {"mask": torch.stack([s["mask"] for s in samples])} if "mask" in samples[0] else {}
    return mask | {
        "latent": torch.stack([s["latent"] for s in samples]),
        "index": torch.tensor([s["index"] for s in samples]),
        **{name: [s[name] for s in samples] for name in ("caption", "key", "problem")},
    }


class LatentDataModule(ClipDataModule):
    """Batches of latents from a bank of `variants` encoded samples of every clip.

    Args:
        config, seed, accumulate: see `ClipDataModule`.
        codec: encodes.
        variants: how many samples of every clip are encoded.
        style: of the captions.
        directory: where the banks lie, so that a continued run need not encode again.
        identity: what the latents depend on besides the data: base and adapters.
        masked: also store the masks of version 2's shifted noise.
    """

    def __init__(
        self,
        config: DataConfig,
        seed: int,
        accumulate: int,
        codec: Codec,
        variants: int,
        style: Rewording,
        directory: Path,
        identity: dict[str, Any],
        masked: bool = False,
    ) -> None:
        super().__init__(config, seed, accumulate)
        self.codec, self.variants, self.style = codec, variants, style
        self.directory, self.identity, self.masked = directory, identity, masked
        self.banks: dict[str, Bank] = {}

    def bank(self, split: str) -> Bank:
        """The encoded samples of a split."""
        if split not in self.banks:
            source = self.train_source if split == "train" else self.val_source
            count = len(source) * self.variants if split == "train" else self._val_count()
            dataset = self.dataset(source, augment=split == "train")
            c = self.config
            key = bank_key(
                self.identity
                | ({"masked": True} if self.masked else {})
                | {"data": source.manifest_hash, "count": count, "seed": dataset.seed, "frames": c.num_frames}
                | {"size": c.size, "stride": c.frame_stride, "zoom": c.zoom, "stills": c.stills, "flip": c.flip}
                | {"contents": [source.checksum(n) for n in range(len(source))]}
                | {"captions": [dataset.caption(n) for n in range(count)]}
            )
            device = "cpu" if self.trainer is None else self.trainer.strategy.root_device
            title = f"encode {split}"
            self.codec.to(device)
            self.banks[split] = load_or_encode(
                self.directory / f"latents-{split}.safetensors",
                key,
                lambda: encode_bank(dataset, self.codec, count, title, device, self.masked),
            )
        return self.banks[split]

    def _val_count(self) -> int:
        return min(self.config.val_clips or len(self.val_source), len(self.val_source))

    def train_loader(self, first: int) -> DataLoader:
        """This rank's batches from global batch number `first` on, without end."""
        assert self.trainer is not None
        sampler = self.sampler(first, *data_share(self.trainer))
        dataset = LatentDataset(self.bank("train"), self.seed, self.style)
        pin = pins(self.trainer)
        return DataLoader(dataset, batch_sampler=sampler, collate_fn=collate_latents, pin_memory=pin)

    def val_dataloader(self) -> DataLoader:
        dataset = LatentDataset(self.bank("val"), self.seed, self.style, shuffle=False)
        share = validation_share(dataset, self.trainer)
        return DataLoader(dataset, batch_size=self.config.val_batch_size, sampler=share, collate_fn=collate_latents)
