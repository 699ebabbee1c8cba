"""Reading and writing flat weight files: safetensors, or torch files (.pth, .bin, .pt) that hold tensors alone."""

from __future__ import annotations

import json
import os
import pickle
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

SAFETENSORS, TORCH = (".safetensors",), (".bin", ".pth", ".pt")

# How torch names what a pickle asks for beyond tensors.
_FORBIDDEN = re.compile(r"GLOBAL (\S+)")


class CheckpointError(ValueError):
    """A checkpoint cannot be read, or is not what it should be."""


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a weight file by name, on the CPU, in the precision they are stored in.

    A torch file is memory-mapped where its format allows, and never runs code: only what `torch.load` accepts with
    `weights_only=True` is read.

    Raises:
        CheckpointError: no such file, another kind of file, damaged, would run code, or holds more than tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    _check_suffix(path)
    try:
        weights = load_file(path) if path.suffix in SAFETENSORS else _read_torch(path)
    except PermissionError:
        raise
    except Exception as error:  # bytes that are no pickle break the unpickler in any way
        if isinstance(error, pickle.UnpicklingError) and (asked := _FORBIDDEN.search(str(error))):
            raise CheckpointError(
                f"{path} holds more than tensors: reading it would run code from the file ({asked[1]}), which is "
                "refused. If you trust its source, open it yourself and save its tensors as safetensors"
            ) from error
        size = path.stat().st_size
        raise CheckpointError(f"{path} ({size:,} bytes) is damaged or no weight file: download it again") from error
    if not isinstance(weights, Mapping) or not all(isinstance(value, Tensor) for value in weights.values()):
        inside = sorted(map(str, weights))[:5] if isinstance(weights, Mapping) else type(weights).__name__
        raise CheckpointError(f"{path} must hold a flat dict of tensors; it holds {inside}")
    return dict(weights)


def weight_names(path: str | Path) -> list[str]:
    """The names in a weight file, without reading its tensors where the format allows; errors as `read_weights`."""
    if Path(path).suffix not in SAFETENSORS:
        return list(read_weights(path))
    if not Path(path).is_file():
        raise CheckpointError(f"{path}: no such file")
    try:
        with safe_open(path, "pt") as file:
            return list(file.keys())
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} is damaged or no weight file: download it again ({error})") from error


class StoredWeights(Mapping[str, Tensor]):
    """The weights of a folder in diffusers' layout, each read when it is asked for, in the precision it is kept in.

    Args:
        folder: of the model; empty if it holds no safetensors.
    """

    def __init__(self, folder: str | Path) -> None:
        index = Path(folder) / "diffusion_pytorch_model.safetensors.index.json"
        single = Path(folder) / "diffusion_pytorch_model.safetensors"
        self._file_of: dict[str, Path] = {}
        if single.is_file():
            self._file_of = dict.fromkeys(weight_names(single), single)
        elif index.is_file():
            places = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
            self._file_of = {name: Path(folder) / file for name, file in places.items()}

    def __getitem__(self, name: str) -> Tensor:
        with safe_open(self._file_of[name], "pt") as file:
            return file.get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._file_of)

    def __len__(self) -> int:
        return len(self._file_of)


def write_weights(path: str | Path, weights: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors by name, atomically; the suffix chooses the format (see `read_weights`).

    `metadata` goes into the header of a safetensors file; a torch file has no place for it.

    The same tensor under two names is stored once in a torch file, twice in safetensors, which knows no sharing.
    """
    path = Path(path)
    _check_suffix(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.tmp")
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    try:
        if path.suffix in SAFETENSORS:
            save_file(
                {name: tensor.clone() for name, tensor in contiguous.items()},
                partial,
                {"format": "pt"} | dict(metadata or {}),
            )
        else:
            torch.save(contiguous, partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def refuse_existing(path: Path, overwrite: bool) -> None:
    """Weights in the way may be days of training: replacing them must be said."""
    if overwrite or not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    raise CheckpointError(f"{path} exists; give another --out, or --overwrite to replace it")


def few(names: Sequence[str], most: int = 3) -> str:
    """For messages: `none`, `3 (a, b, c)` or `12 (a, b, c, ...)`."""
    if not names:
        return "none"
    return f"{len(names)} ({', '.join(names[:most])}{', ...' if len(names) > most else ''})"


def _read_torch(path: Path) -> object:
    # Only the zip format of torch >= 1.6 can be mapped; the older one is read whole.
    return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))


def _check_suffix(path: Path) -> None:
    if path.suffix not in (*SAFETENSORS, *TORCH):
        known = ", ".join((*SAFETENSORS, *TORCH))
        raise CheckpointError(f"{path}: the suffix must be one of {known}; got {path.suffix or 'none'}")
