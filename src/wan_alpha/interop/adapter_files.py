"""Where the parts of a set of adapters are: of the VAE, of the transformer, and a distillation LoRA."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from wan_alpha.interop.dit_adapters import read_metadata
from wan_alpha.interop.naming import DECODERS
from wan_alpha.interop.weights import CheckpointError, weight_names
from wan_alpha.models.adapters import DESCRIPTION, AdapterError, locate_adapters
from wan_alpha.models.assets import ASSETS, asset
from wan_alpha.models.dit_adapters import own_header

DIT_FILES = ("pytorch_lora_weights.safetensors", "t2v.safetensors")
DISTILL_FILE = "distill.safetensors"

AdapterPaths = str | Path | Sequence[str | Path] | None


@dataclass(frozen=True)
class AdapterFiles:
    """Where the parts of a set of adapters are.

    Attributes:
        vae: directory with `adapters.json` and `adapters.safetensors`, or the authors' file.
        dit: DoRA or LoRA file of the transformer.
        distill: distillation LoRA, applied after the DoRA.
        dit_2: DoRA or LoRA file of `transformer_2`, the expert for low noise of bases that have two.
    """

    vae: Path | None = None
    dit: Path | None = None
    distill: Path | None = None
    dit_2: Path | None = None


def find_adapters(adapters: AdapterPaths) -> AdapterFiles:
    """Find the parts in one place or several; a part that a later place has replaces that of an earlier one.

    Args:
        adapters: `tiny` (shipped), an exported directory, a run directory (its `adapters/`), a file of the authors'
            release or any DoRA or LoRA of the transformer, or several of these: usually one of stage vae and one of
            stage dit, or of a base with two experts one of stage dit for each.

    Raises:
        AdapterError: a place does not exist or holds no adapters.
    """
    places = [] if adapters is None else [adapters] if isinstance(adapters, str | Path) else list(adapters)
    found = AdapterFiles()
    for place in places:
        part = _tiny() if place == "tiny" else _inside(Path(place))
        found = AdapterFiles(
            part.vae or found.vae, part.dit or found.dit, part.distill or found.distill, part.dit_2 or found.dit_2
        )
    if places and found.vae is None:
        raise AdapterError(
            f"adapters: {', '.join(map(str, places))} hold nothing for the VAE, without which there is no alpha: give "
            "those of stage vae, too, as [VAE,DIT]"
        )
    return found


def _tiny() -> AdapterFiles:
    dit = ASSETS / "tiny-dora" / DIT_FILES[0]
    return AdapterFiles(vae=asset("tiny-adapters"), dit=dit if dit.exists() else None)


def _inside(place: Path) -> AdapterFiles:
    if place.is_file():
        return AdapterFiles(vae=place) if _is_rgba_vae(place) else _of_its_expert(AdapterFiles(dit=place))
    folders = [place, place / "adapters", place / "vae", place / "dit", place / "adapters" / "vae",
               place / "adapters" / "dit"]  # fmt: skip
    vae = next((folder for folder in folders if (folder / DESCRIPTION).is_file()), None)
    dit = next((folder / name for folder in folders for name in DIT_FILES if (folder / name).is_file()), None)
    distill = next((folder / DISTILL_FILE for folder in folders if (folder / DISTILL_FILE).is_file()), None)
    if vae is None and dit is None:
        found, either = ("holds neither", "nor") if place.exists() else ("does not exist; expected", "or")
        raise AdapterError(
            f"adapters: {place} {found} {DESCRIPTION} (stage vae) {either} {' or '.join(DIT_FILES)} (stage dit), there "
            "or in adapters/; give an exported adapter directory, a run directory, or `tiny`"
        )
    return _of_its_expert(AdapterFiles(vae or _vae_of_run(place), dit, distill))


def _of_its_expert(files: AdapterFiles) -> AdapterFiles:
    """A file of stage dit says for which of a base's experts it is; one that does not say is for the first."""
    second = files.dit is not None and own_header(read_metadata(files.dit)).get("expert") == "transformer_2"
    return AdapterFiles(files.vae, None, files.distill, files.dit) if second else files


def _is_rgba_vae(file: Path) -> bool:
    """The authors' RGBA VAE has two decoders, `vae_fgr` and `vae_pha`; nothing of a transformer is called so."""
    try:
        return any(DECODERS["alpha"] in name for name in weight_names(file))
    except CheckpointError as error:
        raise AdapterError(f"adapters: {error}") from error


def _vae_of_run(run: Path) -> Path | None:
    """The VAE's adapters that a run of stage dit was trained with; its config.json names them."""
    try:
        named = json.loads((run / "config.json").read_text(encoding="utf-8"))["model"]["vae_adapters"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return locate_adapters(named) if isinstance(named, str) else None
