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

from wan_alpha.models.assets import asset
from wan_alpha.models.base import fingerprint, layout

log = logging.getLogger(__name__)

FORMAT = "wan-alpha adapters"
VERSION = 1
ALPHA_VAE = "alpha_vae"  # the project's own; other kinds are those of baselines
TENSORS, DESCRIPTION = "adapters.safetensors", "adapters.json"


class AdapterError(ValueError):
    """Adapters are missing, damaged or made for another base."""


@dataclass(frozen=True)
class Adapters:
    """What an adapter directory holds: tensors by name, and the arguments of `AdapterSpec`."""

    tensors: dict[str, Tensor]
    spec: dict[str, Any]


def save_adapters(
    directory: str | Path,
    vae: AutoencoderKLWan,
    spec: dict[str, Any],
    tensors: dict[str, Tensor],
    kind: str = ALPHA_VAE,
) -> None:
    """Write both files, each atomically; the description comes last, so that it never speaks of missing tensors."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    description = {
        "format": FORMAT,
        "version": VERSION,
        "kind": kind,
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


def adapter_kind(adapters: str | Path) -> str:
    """Which RGBA VAE an adapter directory belongs to: `alpha_vae`, or a baseline's kind."""
    return str(_description(locate_adapters(adapters)).get("kind", ALPHA_VAE))


def _description(directory: Path) -> dict[str, Any]:
    try:
        description = json.loads((directory / DESCRIPTION).read_text())
    except (OSError, ValueError) as error:
        raise AdapterError(f"adapters in {directory} are damaged: {error}") from error
    found = (description.get("format"), description.get("version")) if isinstance(description, dict) else ()
    if found != (FORMAT, VERSION):
        raise AdapterError(f"{directory / DESCRIPTION} is {found}; this version reads {(FORMAT, VERSION)}")
    return description


def load_adapters(adapters: str | Path, vae: AutoencoderKLWan, kind: str = ALPHA_VAE) -> Adapters:
    """Read adapters and check that they are of `kind` and fit `vae`; other weights in the same layout only warn."""
    directory = locate_adapters(adapters)
    description = _description(directory)
    if (found := description.get("kind", ALPHA_VAE)) != kind:
        raise AdapterError(f"adapters in {directory} are of kind {found}; expected {kind}: give a run with that model")
    try:
        tensors = load_file(directory / TENSORS)
    except (OSError, ValueError, SafetensorError) as error:
        raise AdapterError(f"adapters in {directory} are damaged: {error}") from error
    if missing := {"spec", "base"} - description.keys():
        raise AdapterError(
            f"adapters in {directory} are damaged: {DESCRIPTION} has no {' and no '.join(sorted(missing))}"
        )
    try:
        made_for, made_with = description["base"]["layout"], description["base"]["fingerprint"]
    except (KeyError, TypeError) as error:
        raise AdapterError(f"adapters in {directory} are damaged: {DESCRIPTION}: base has no {error}") from error
    if not isinstance(description["spec"], dict):
        raise AdapterError(f"adapters in {directory} are damaged: {DESCRIPTION}: spec is {description['spec']!r}")
    have = layout(vae)
    differing = [f"{k}: adapters {made_for.get(k)}, base {have[k]}" for k in have if made_for.get(k) != have[k]]
    if differing:
        raise AdapterError(f"adapters in {directory} were made for another base: {'; '.join(differing)}")
    if made_with != (here := fingerprint(vae)):
        log.warning(
            "adapters in %s were trained on a base with other weights in the same layout (%s, here %s)",
            directory, made_with, here,
        )  # fmt: skip
    return Adapters(tensors, description["spec"])
