"""Adapter files: `adapters.safetensors` holds the trained tensors, `adapters.json` says what they belong to."""

from __future__ import annotations

import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from .assets import asset
from .base import fingerprint, layout

log = logging.getLogger(__name__)

FORMAT = "wan-alpha adapters"
VERSION = 1
TENSORS, DESCRIPTION = "adapters.safetensors", "adapters.json"


class AdapterError(ValueError):
    """Adapters are missing, damaged or made for another base."""


@dataclass(frozen=True)
class Adapters:
    """What an adapter directory holds: tensors by name, and the arguments of `AdapterSpec`."""

    tensors: dict[str, Tensor]
    spec: dict[str, Any]


def save_adapters(
    directory: str | Path, vae: AutoencoderKLWan, spec: dict[str, Any], tensors: dict[str, Tensor]
) -> None:
    """Write both files, each atomically; the description comes last, so that it never speaks of missing tensors."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    description = {
        "format": FORMAT,
        "version": VERSION,
        "spec": spec,
        "base": {"layout": layout(vae), "fingerprint": fingerprint(vae)},
    }
    contiguous = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    save_file(contiguous, directory / f"{TENSORS}.tmp", metadata={"format": "pt"})
    os.replace(directory / f"{TENSORS}.tmp", directory / TENSORS)
    (directory / f"{DESCRIPTION}.tmp").write_text(json.dumps(description, indent=2) + "\n")
    os.replace(directory / f"{DESCRIPTION}.tmp", directory / DESCRIPTION)


def locate_adapters(adapters: str | Path) -> Path:
    """The directory that holds the files: itself, `adapters/` of a run directory, or the shipped `tiny`."""
    if adapters == "tiny":
        return asset("tiny-adapters")
    path = Path(adapters)
    for candidate in (path, path / "adapters"):
        if (candidate / DESCRIPTION).exists():
            return candidate
    raise AdapterError(
        f"no {DESCRIPTION} in {path} or {path / 'adapters'}: give an exported adapter directory or a run"
    )


def load_adapters(adapters: str | Path, vae: AutoencoderKLWan) -> Adapters:
    """Read adapters and check that they fit `vae`; other weights in the same layout only warn."""
    directory = locate_adapters(adapters)
    try:
        description = json.loads((directory / DESCRIPTION).read_text())
        tensors = load_file(directory / TENSORS)
    except (OSError, ValueError, SafetensorError) as error:
        raise AdapterError(f"adapters in {directory} are damaged: {error}") from error
    found = (description.get("format"), description.get("version")) if isinstance(description, dict) else ()
    if found != (FORMAT, VERSION):
        raise AdapterError(f"{directory / DESCRIPTION} is {found}; this version reads {(FORMAT, VERSION)}")
    if missing := {"spec", "base"} - description.keys():
        raise AdapterError(
            f"adapters in {directory} are damaged: {DESCRIPTION} has no {' and no '.join(sorted(missing))}"
        )
    made_for, have = description["base"]["layout"], layout(vae)
    differing = [f"{k}: adapters {made_for.get(k)}, base {have[k]}" for k in have if made_for.get(k) != have[k]]
    if differing:
        raise AdapterError(f"adapters in {directory} were made for another base: {'; '.join(differing)}")
    if description["base"]["fingerprint"] != fingerprint(vae):
        log.warning("adapters in %s were trained on a base with other weights in the same layout", directory)
    return Adapters(tensors, description["spec"])
