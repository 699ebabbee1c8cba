"""What a pipeline is loaded from: which adapter files there are, and what a missing base says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..models.adapters import DESCRIPTION, AdapterError
from ..models.assets import ASSETS, asset
from ..models.base import HUB, BaseError, locate_base

DIT_FILES = ("pytorch_lora_weights.safetensors", "t2v.safetensors")
DISTILL_FILE = "distill.safetensors"
# transformer + UMT5-XXL text encoder + VAE: parameters x 4 bytes, as the float32 releases hold them
SIZES_GB = {"wan2.1-1.3b": 29, "wan2.1-14b": 80, "wan2.2-5b": 46}

AdapterPaths = str | Path | Sequence[str | Path] | None


@dataclass(frozen=True)
class AdapterFiles:
    """Where the parts of a set of adapters are.

    Attributes:
        vae: directory with `adapters.json` and `adapters.safetensors`.
        dit: DoRA or LoRA file of the transformer.
        distill: distillation LoRA, applied after the DoRA.
    """

    vae: Path | None = None
    dit: Path | None = None
    distill: Path | None = None


def find_adapters(adapters: AdapterPaths) -> AdapterFiles:
    """Find the parts in one place or several; a part that a later place has replaces that of an earlier one.

    Args:
        adapters: `tiny` (shipped), an exported directory, a run directory (its `adapters/`), a .safetensors file of
            the transformer, or several of these: usually one of stage vae and one of stage dit.

    Raises:
        AdapterError: a place does not exist or holds no adapters.
    """
    places = [] if adapters is None else [adapters] if isinstance(adapters, str | Path) else list(adapters)
    found = AdapterFiles()
    for place in places:
        part = _tiny() if place == "tiny" else _inside(Path(place))
        found = AdapterFiles(part.vae or found.vae, part.dit or found.dit, part.distill or found.distill)
    return found


def locate_pipeline(base: str | Path) -> str:
    """The path or hub id of a complete base, with text encoder and transformer.

    Raises:
        BaseError: there is none; says what it is and how large.
    """
    where = locate_base(base)
    folder = Path(where)
    if folder.exists():
        parts = [name for name in ("transformer", "text_encoder", "tokenizer", "scheduler", "vae")
                 if not (folder / name).is_dir()]  # fmt: skip
        if parts:
            raise BaseError(
                f"base {str(base)!r} at {folder} has no {', '.join(parts)}: to generate, a base needs all five "
                f"folders of diffusers' layout. {_where_to_get()}"
            )
    return where


def missing_base(base: str | Path, error: Exception) -> BaseError:
    """The error of a base that could not be loaded, with where to get it and how large it is."""
    size = f", about {SIZES_GB[str(base)]} GB," if str(base) in SIZES_GB else ""
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return BaseError(
        f"base {str(base)!r}{size} cannot be loaded from {HUB.get(str(base), base)} ({reason}). {_where_to_get()}"
    )


def _where_to_get() -> str:
    offers = "; ".join(f"`hf download {HUB[name]} --local-dir DIR` ({size} GB)" for name, size in SIZES_GB.items())
    return f"Get one with {offers}, and give base=DIR; base=tiny is shipped"


def _tiny() -> AdapterFiles:
    dit = ASSETS / "tiny-dora" / DIT_FILES[0]
    return AdapterFiles(vae=asset("tiny-adapters"), dit=dit if dit.exists() else None)


def _inside(place: Path) -> AdapterFiles:
    if place.is_file():
        return AdapterFiles(dit=place)
    folders = [place, place / "adapters", place / "vae", place / "dit", place / "adapters" / "vae",
               place / "adapters" / "dit"]  # fmt: skip
    vae = next((folder for folder in folders if (folder / DESCRIPTION).is_file()), None)
    dit = next((folder / name for folder in folders for name in DIT_FILES if (folder / name).is_file()), None)
    distill = next((folder / DISTILL_FILE for folder in folders if (folder / DISTILL_FILE).is_file()), None)
    if vae is None and dit is None:
        exists = "holds neither" if place.exists() else "does not exist; expected"
        raise AdapterError(
            f"adapters: {place} {exists} {DESCRIPTION} (stage vae) nor {' or '.join(DIT_FILES)} (stage dit), there "
            "or in adapters/; give an exported adapter directory, a run directory, or `tiny`"
        )
    return AdapterFiles(vae, dit, distill)
