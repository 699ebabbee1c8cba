"""Encoded clips on disk: what the DiT is trained on, made once.

A folder holds `train-000000.safetensors`, ..., `val-000000.safetensors`, ... and `latents.json`.  A shard holds of each
sample its number, `latent.N` (z, T', h, w), `coverage.N` (1, T', h, w) in float16, for image-to-video `condition.N` and
`image.N`, and, once for each caption in it, `text.I` (tokens, C) without padding.  Its header says what the samples
were made of:

    identity  base, adapters, text and image encoder by their hashes, the shape of the clips, the number type
    entries   of each sample its number, clip, caption, background, and a key: the hash of base, adapters, text encoder,
              window of the clip and caption

A reader says with which base and adapters it is going to use the latents, and is refused if they are others.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import Dataset

from wan_alpha.data.errors import DataError
from wan_alpha.data.order import SampleOrder
from wan_alpha.data.source import Clip, chosen_captions

MANIFEST = "latents.json"
SCHEMA_VERSION = 3  # in 1 the coverage was too coarse for version 2's noise; in 2 held-out colours followed the seed
HEADER = "wan_alpha"
INSTEAD = "instead"  # in the window of a sample whose clip could not be read: the one that took its place
MEANINGS = {
    "base": "with another base",
    "adapters": "with other adapters",
    "text": "with another text encoder",
    "image": "with another image encoder",
    "z": "for latents with another number of channels",
    "task": "for another task",
    "num_frames": "of clips of another length",
    "height": "of clips of another height",
    "width": "of clips of another width",
}


class LatentsError(DataError):
    """Latents are missing, damaged, or of another base, other adapters, another window or another caption."""


@dataclass(frozen=True)
class LatentEntry:
    """What is known of one encoded sample; `text` is the place of its caption among the shard's embeddings."""

    number: int
    key: str
    clip: str
    caption: str
    background: list[float]
    window: dict[str, Any]
    text: int | None
    problem: str = ""

    @property
    def words(self) -> str:
        """The caption of the clip that was encoded, as `data.only` and `data.exclude` name it."""
        return self.window.get(INSTEAD, self.window).get("words", "")


def entry_key(identity: Mapping[str, Any], window: Mapping[str, Any], caption: str) -> str:
    """The hash of base, adapters, text encoder, window of the clip, and caption."""
    made_by = {name: identity.get(name) for name in ("base", "adapters", "text", "image", "task")}
    parts = json.dumps([made_by, dict(window), caption], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(parts.encode()).hexdigest()[:16]


def write_latent_shard(
    file: Path, identity: Mapping[str, Any], entries: Sequence[LatentEntry], tensors: dict[str, Tensor]
) -> None:
    """Write one shard atomically.

    Raises:
        OSError: the disk is full, or the file cannot be written.
    """
    content = {"version": SCHEMA_VERSION, "identity": dict(identity), "entries": [asdict(e) for e in entries]}
    partial = file.with_name(f".{file.name}.tmp")
    # One key only: safetensors writes several in random order, and the same samples should give the same bytes.
    try:
        save_file(tensors, partial, metadata={HEADER: json.dumps(content, ensure_ascii=False)})
    except SafetensorError as error:  # the system's own error is in its words alone
        number = re.search(r"os error (\d+)", str(error))
        raise OSError(int(number[1]) if number else errno.EIO, str(error), str(file)) from error
    os.replace(partial, file)


def read_latent_header(file: Path) -> tuple[dict[str, Any], list[LatentEntry]]:
    """Identity and entries of a shard.

    Raises:
        LatentsError: it is no such shard, or damaged.
    """
    try:
        with safe_open(file, framework="pt") as handle:
            content = json.loads((handle.metadata() or {})[HEADER])
        if content["version"] != SCHEMA_VERSION:
            raise LatentsError(f"{file}: version {content['version']}; this reads {SCHEMA_VERSION}: encode again")
        return content["identity"], [LatentEntry(**entry) for entry in content["entries"]]
    except (OSError, SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise LatentsError(f"{file} is no shard of latents, or damaged ({error}); encode again") from error


class LatentSource:
    """The encoded samples of one split, checked.

    Args:
        root: folder written by `data_prep.encode`.
        split: "train" or "val".
        wanted: what the reader works with, as far as it knows: any of the names in `MEANINGS`.
        only, exclude: captions of the clips whose samples are read, and of those that are not; see `chosen_captions`.

    Raises:
        LatentsError: see there; the message says what differs and what to do.
    """

    def __init__(
        self,
        root: str | Path,
        split: str,
        wanted: Mapping[str, Any],
        only: Sequence[str] = (),
        exclude: Sequence[str] = (),
    ) -> None:
        self.root, self.split = Path(root), split
        manifest = read_manifest(self.root)
        self.identity: dict[str, Any] = manifest["identity"]
        check_identity(self.root, self.identity, wanted)
        self.entries: list[LatentEntry] = []
        self._files: list[Path] = []
        self._handles: dict[Path, Any] = {}
        for name in manifest["shards"][split]:
            self._add(self.root / name)
        known = {word for entry in self.entries for word in (entry.words, entry.window.get("words", ""))}
        chosen = chosen_captions(known, only, exclude)
        kept = [place for place, entry in enumerate(self.entries) if entry.words in chosen]
        self.entries, self._files = [self.entries[n] for n in kept], [self._files[n] for n in kept]
        if not self.entries:
            raise LatentsError(f"{self.root} holds no {split} latents")
        keys = "\n".join(entry.key for entry in self.entries)
        self.manifest_hash = hashlib.sha256(f"{self.identity}\n{keys}".encode()).hexdigest()
        self.problems = [entry.problem for entry in self.entries if entry.problem]

    def _add(self, file: Path) -> None:
        if not file.exists():
            raise LatentsError(f"{file} is missing; run data_prep.encode again, it goes on where it was")
        identity, entries = read_latent_header(file)
        if identity != self.identity:
            differing = sorted(k for k in identity.keys() | self.identity.keys()
                               if identity.get(k) != self.identity.get(k))  # fmt: skip
            raise LatentsError(f"{file} is of another run of data_prep.encode ({', '.join(differing)}); encode again")
        for entry in entries:
            if entry_key(identity, entry.window, entry.caption) != entry.key:
                raise LatentsError(f"{file}: {entry.clip} is stale: its caption or window has changed; encode again")
        self.entries += entries
        self._files += [file] * len(entries)

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def clips(self) -> list[Clip]:
        """What was encoded, one entry a sample."""
        shape = self.identity["num_frames"], 0.0, self.identity["height"], self.identity["width"]
        return [Clip(entry.clip, *shape, entry.caption, self.split) for entry in self.entries]

    def read(self, place: int) -> dict[str, Tensor]:
        """`latent`, `coverage` and, where there are, `condition`, `image` and `text` of an entry, as stored."""
        entry, handle = self.entries[place], self._handle(self._files[place])
        found = {name: f"{name}.{entry.number}" for name in ("latent", "coverage", "condition", "image")}
        if entry.text is not None:
            found["text"] = f"text.{entry.text}"
        have = set(handle.keys())
        try:
            return {name: handle.get_tensor(key) for name, key in found.items() if key in have}
        except SafetensorError as error:
            raise LatentsError(f"{self._files[place]} is damaged ({error}); encode again") from error

    def _handle(self, file: Path) -> Any:
        if file not in self._handles:
            self._handles[file] = safe_open(file, framework="pt").__enter__()
        return self._handles[file]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_handles": {}}  # every worker process opens its own files


def read_manifest(root: Path) -> dict[str, Any]:
    """`latents.json` of a folder."""
    try:
        manifest = json.loads((root / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise LatentsError(
            f"{root} holds no {MANIFEST}: python -m data_prep.encode out={root} ... writes it when all is encoded"
        ) from None
    except (OSError, ValueError) as error:
        raise LatentsError(f"{root / MANIFEST} cannot be read ({error}); encode again") from error
    if manifest.get("version") != SCHEMA_VERSION:
        raise LatentsError(f"{root / MANIFEST}: version {manifest.get('version')}; this reads {SCHEMA_VERSION}")
    return manifest


def check_identity(root: Path, identity: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Refuse latents of another base, other adapters, another z, and so on."""
    for name, meaning in MEANINGS.items():
        if name in wanted and identity.get(name) != wanted[name] and not (name == "text" and identity[name] is None):
            raise LatentsError(
                f"the latents in {root} were made {meaning} ({name} {identity.get(name)}, here it is {wanted[name]}): "
                "run data_prep.encode again with what you train with, or train with what they were made with"
            )


class LatentDataset(Dataset[dict[str, Any]]):
    """Encoded samples; with `shuffle`, `dataset[n]` is defined for every global sample number n >= 0.

    The first pass takes the samples by their numbers, so that it equals training on the fly, whose order has been
    shuffled already; later passes are permutations of their own.  A sample holds

        latent      float32 (z, T', h, w), normalised;   condition: the same, for image-to-video only
        image       float32 (tokens, C): CLIP's features of the first frame, for bases that want them
        coverage    float32 (1, T', h, w) in [0, 1]: which share of each cell is not fully transparent
        text        (tokens, C) of the caption, if embeddings were stored
        background  float32 (3,), caption, key (of the clip), index (n), problem
    """

    def __init__(self, source: LatentSource, seed: int, shuffle: bool = True) -> None:
        self.source, self.shuffle = source, shuffle
        self.order = SampleOrder([len(source)], seed)

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, n: int) -> dict[str, Any]:
        passes, place = divmod(n, len(self.source))
        if self.shuffle and passes:
            place = self.order.locate(n)[1]
        entry, tensors = self.source.entries[place], self.source.read(place)
        sample: dict[str, Any] = {name: t.float() for name, t in tensors.items()}
        return sample | {
            "background": torch.tensor(entry.background),
            "caption": entry.caption,
            "key": entry.clip,
            "index": n,
            "problem": entry.problem,
        }


def collate_latents(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """Stack samples into a batch; captions, keys, problems and text embeddings stay lists."""
    lists = ("caption", "key", "problem", "text")
    batch: dict[str, Any] = {}
    for name in samples[0]:
        values = [sample[name] for sample in samples]
        if name == "index":
            batch[name] = torch.from_numpy(np.array(values, dtype=np.int64))
        else:
            batch[name] = values if name in lists else torch.stack(values)
    return batch
