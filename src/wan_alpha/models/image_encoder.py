"""CLIP's features of a first frame: what Wan2.1's image-to-video bases see besides its latent.

diffusers' layout: `image_encoder/` holds a CLIP vision model, `image_processor/` how it wants its pictures, and the
transformer (image_dim, add_k_proj, add_v_proj) attends to the hidden states before CLIP's last layer.  CLIP knows no
alpha, so it sees the frame on white; what is transparent in it, the base learns from the latent.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from PIL import Image
from torch import Tensor, nn
from transformers import CLIPVisionModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from wan_alpha.models.base import BaseError, locate_base
from wan_alpha.models.transfer import send


class ImageEncoder(nn.Module):
    """Picture processor and CLIP vision model as one module.

    Args:
        processor: brings pictures to the encoder's size and range.
        encoder: CLIP's vision model.
    """

    def __init__(self, processor: Any, encoder: CLIPVisionModel) -> None:
        super().__init__()
        self.processor, self.encoder = processor, encoder

    @classmethod
    def from_pretrained(cls, base: str | Path) -> ImageEncoder:
        """The image encoder of a base in diffusers' layout, frozen, in float32 as diffusers' examples have it.

        Raises:
            BaseError: the base has none.
        """
        where = locate_base(base)
        try:
            # Pillow's processor, whatever the base names: torchvision's is another package and rounds otherwise.
            processor = CLIPImageProcessorPil.from_pretrained(where, subfolder="image_processor")
            encoder = CLIPVisionModel.from_pretrained(where, subfolder="image_encoder", dtype=torch.float32)
        except (OSError, ValueError) as error:
            raise BaseError(
                f"the transformer of {where!r} also wants CLIP features of the first frame (image_dim is set), and "
                f"its image_encoder/ or image_processor/ cannot be read ({str(error).splitlines()[0]})"
            ) from error
        return cls(processor, encoder.requires_grad_(False).eval())

    @torch.no_grad()
    def forward(self, pictures: Sequence[Image.Image]) -> Tensor:
        """Features of B pictures, RGBA or RGB, on white: (B, tokens, image_dim)."""
        weight = next(self.encoder.parameters())
        pixels = self.processor(images=[on_white(p) for p in pictures], return_tensors="pt")["pixel_values"]
        with torch.autocast(weight.device.type, enabled=False):
            found = self.encoder(send(pixels, weight.device).to(weight.dtype), output_hidden_states=True)
        return found.hidden_states[-2]


def on_white(picture: Image.Image) -> Image.Image:
    """An RGB picture."""
    picture = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")


def first_pictures(rgb: Tensor, alpha: Tensor) -> list[Image.Image]:
    """The first frames as RGBA pictures: rgb (B, 3, T, H, W) in [-1, 1], alpha (B, 1, T, H, W) in [0, 1]."""
    frames = torch.cat([(rgb[:, :, 0] + 1) / 2, alpha[:, :, 0]], dim=1).float().clamp(0, 1)
    return [Image.fromarray(p.numpy()) for p in frames.mul(255).round().byte().permute(0, 2, 3, 1).cpu().contiguous()]


def wants_features(base: str | Path) -> bool:
    """Whether the transformer of a base attends to CLIP features; False for a base without a transformer."""
    try:
        config = WanTransformer3DModel.load_config(locate_base(base), subfolder="transformer")
    except OSError:
        return False
    return dict(config).get("image_dim") is not None
