"""A first RGBA frame as the condition of an image-to-video base.

Wan's I2V transformers take 2z + 4 channels: the noisy latent, a mask that says which pixels of which frame are given,
and the latent of a video that holds the first frame and nothing after it.  Here that video is RGBA and encoded by the
RGBA VAE, so that the condition carries transparency, too.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn

from wan_alpha.models.base import temporal_stride
from wan_alpha.models.image_condition import first_frame_mask
from wan_alpha.models.image_encoder import ImageEncoder
from wan_alpha.pipeline.pictures import UNREADABLE

FirstFrame = str | Path | Image.Image


class ImageError(ValueError):
    """The first frame cannot be used."""


@dataclass(frozen=True)
class Condition:
    """What an I2V transformer gets beside the noise.

    Attributes:
        latent: (1, 4 + z, T', h, w): mask, then normalised latent of the first frame.
        image_embeds: (1, tokens, image_dim) of the base's CLIP encoder, or None for bases without one.
    """

    latent: Tensor
    image_embeds: Tensor | None = None


def read_first_frame(image: FirstFrame, height: int, width: int) -> Image.Image:
    """An RGBA picture of the wanted size: scaled to cover it, the overhang cut off evenly.

    Raises:
        ImageError: no such file, or no picture.
    """
    if not isinstance(image, Image.Image):
        try:
            image = Image.open(image)
            image.load()
        except UNREADABLE as error:
            raise ImageError(f"image {image}: cannot be read as a picture ({error})") from error
    picture = ImageOps.exif_transpose(image).convert("RGBA")  # as a telephone was held
    scale = max(width / picture.width, height / picture.height)
    size = (max(width, round(picture.width * scale)), max(height, round(picture.height * scale)))
    if picture.size != size:  # else it stays what it is, to the bit
        # Premultiplied while resampling: hidden colour must not bleed into the edge.
        picture = picture.convert("RGBa").resize(size, Image.Resampling.LANCZOS).convert("RGBA")
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    return picture.crop((left, top, left + width, top + height))


def check_image_and_base(given: bool, takes_image: bool) -> None:
    """Raise ImageError for an image that the base cannot take, or for none where it needs one."""
    if takes_image and not given:
        raise ImageError("this base makes videos from an image: give one, task=i2v image=FILE")
    if given and not takes_image:
        raise ImageError("this base makes videos from text only: leave the image out, or take an I2V base")


def condition(pipe: Any, image: FirstFrame | None, num_frames: int, height: int, width: int) -> Condition | None:
    """The condition for an I2V base, or None for a text-to-video base.

    Raises:
        ImageError: an image for a base that takes none, or none for a base that needs one.
    """
    check_image_and_base(image is not None, pipe.form.takes_image)
    if image is None:
        return None
    picture = read_first_frame(image, height, width)
    pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255
    device, dtype = pipe._execution_device, pipe.vae.dtype
    rgb = torch.zeros(1, 3, num_frames, height, width, device=device, dtype=dtype)
    # Frames that are not given are zero in the network's range, as in training: see `models.image_condition`.
    alpha = torch.full((1, 1, num_frames, height, width), 0.5, device=device, dtype=dtype)
    rgb[:, :, 0], alpha[:, :, 0] = (2 * pixels[:3] - 1).to(rgb), pixels[3:].to(rgb)
    latent = pipe.vae.encode(rgb, alpha)
    mask = first_frame_mask(latent, temporal_stride(pipe.vae.alpha_vae.base))
    return Condition(torch.cat([mask, latent], dim=1).float(), _embed(pipe, picture))


@contextmanager
def conditioned(pipe: Any, given: Condition | None) -> Iterator[None]:
    """Inside, the transformer, or each of the base's two, sees the condition beside every noisy latent."""
    if given is None:
        yield
        return

    def add(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        noisy = kwargs["hidden_states"]
        latent = given.latent.to(noisy).expand(noisy.shape[0], -1, -1, -1, -1)
        more: dict[str, Any] = {"hidden_states": torch.cat([noisy, latent], dim=1)}
        if given.image_embeds is not None:
            more["encoder_hidden_states_image"] = given.image_embeds.to(noisy).expand(noisy.shape[0], -1, -1)
        return args, kwargs | more

    experts = [part for part in (pipe.transformer, pipe.transformer_2) if part is not None]
    handles = [expert.register_forward_pre_hook(add, with_kwargs=True) for expert in experts]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _embed(pipe: Any, picture: Image.Image) -> Tensor | None:
    """CLIP features of the picture on white, where the base has an image encoder (Wan2.1's I2V)."""
    if pipe.transformer.config.image_dim is None:
        return None
    return ImageEncoder(pipe.image_processor, pipe.image_encoder)([picture])
