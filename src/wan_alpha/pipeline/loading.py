"""A base to generate with must be complete; one that is missing says where to get it and how large it is.

A preview decoder must fit the base.
"""

from __future__ import annotations

import logging
from pathlib import Path

from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from diffusers.utils.logging import disable_progress_bar as disable_parts_bar
from transformers.utils.logging import disable_progress_bar as disable_weights_bar

from wan_alpha.interop.weights import CheckpointError, read_weights
from wan_alpha.models.base import HUB, BaseError, locate_base
from wan_alpha.models.form import BaseForm
from wan_alpha.models.tiny_decoder import TinyDecoder

log = logging.getLogger(__name__)

# transformer + UMT5-XXL text encoder + VAE: parameters x 4 bytes, as the float32 releases hold them
SIZES_GB = {"wan2.1-1.3b": 29, "wan2.1-14b": 80, "wan2.2-5b": 46}


class PreviewError(ValueError):
    """A preview decoder cannot be read, or belongs to another base."""


def load_preview(path: str | Path) -> TinyDecoder:
    """A tiny decoder from a TAEHV file.

    Raises:
        PreviewError: it cannot be read, or is something else.
    """
    try:
        return TinyDecoder.from_weights(read_weights(path))
    except CheckpointError as error:
        raise PreviewError(f"preview: {error}") from error
    except ValueError as error:
        raise PreviewError(f"preview={path}: {error}; for Wan2.1 take TAEHV's taew2_1 file") from error


def quiet_loading() -> None:
    """No bars of the libraries for parts and weights: one status line of ours is enough."""
    disable_parts_bar()
    disable_weights_bar()


def locate_pipeline(base: str | Path) -> str:
    """The path or hub id of a complete base, with text encoder and transformer.

    Raises:
        BaseError: there is none; says what it is and how large.
    """
    where = locate_base(base)
    if Path(where).exists():
        _check_complete(base, Path(where))
    else:
        size = f", {SIZES_GB[str(base)]} GB" if str(base) in SIZES_GB else ""
        log.warning("base %s: %s%s, is fetched from the hub unless it is there already", base, where, size)
    return where


def read_form(base: str | Path) -> BaseForm:
    """The form of a complete base, from its configuration files alone.

    Raises:
        BaseError: as `locate_pipeline`, or they cannot be fetched.
    """
    where = locate_base(base)
    if Path(where).exists():
        _check_complete(base, Path(where))
    try:
        vae = AutoencoderKLWan.load_config(where, subfolder="vae")
        transformer = WanTransformer3DModel.load_config(where, subfolder="transformer")
    except (OSError, ValueError) as error:
        raise missing_base(base, error) from error
    return BaseForm.of(vae, transformer)


def _check_complete(base: str | Path, folder: Path) -> None:
    parts = [name for name in ("transformer", "text_encoder", "tokenizer", "scheduler", "vae")
             if not (folder / name).is_dir()]  # fmt: skip
    if parts:
        raise BaseError(
            f"base {str(base)!r} at {folder} has no {', '.join(parts)}: to generate, a base needs all five folders of "
            f"diffusers' layout. {_where_to_get()}"
        )


def missing_base(base: str | Path, error: Exception) -> BaseError:
    """The error of a base that could not be loaded, with where to get it and how large it is."""
    size = f", about {SIZES_GB[str(base)]} GB," if str(base) in SIZES_GB else ""
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return BaseError(
        f"base {str(base)!r}{size} cannot be loaded from {HUB.get(str(base), base)} ({reason}). {_where_to_get()}"
    )


def _where_to_get() -> str:
    offers = "; ".join(f"`hf download {HUB[name]} --local-dir DIR` ({size} GB)" for name, size in SIZES_GB.items())
    return f"Get one with {offers}, and give its folder (generate.py: base=path base.path=DIR); tiny is shipped"
