"""Figures that need a network whose weights the user gives by path: CLIP score, FVD."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wan_alpha.data.resize import Frames
from wan_alpha.evaluation.frechet import FeatureError, load_torchscript
from wan_alpha.evaluation.motion import on_grey

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
CLIP_FRAMES = 8


def composite(frames: Frames) -> np.ndarray:
    """Frames on mid-grey, float32 (T, H, W, 3) in [0, 1]."""
    colours = frames[..., :3].astype(np.float32) / 255
    return on_grey(colours, frames[..., 3].astype(np.float32) / 255 if frames.shape[-1] == 4 else None)


class ClipScore:
    """100 x cosine of the embeddings of a text and of frames, floored at 0 (Hessel et al. 2021), mean over 8 frames.

    Args:
        folder: a CLIP model and its tokenizer in transformers' layout.
        device: where it runs.

    Raises:
        FeatureError: there is no CLIP model in the folder.
    """

    def __init__(self, folder: str, device: torch.device) -> None:
        from transformers import AutoTokenizer, CLIPModel

        try:
            model: Any = CLIPModel.from_pretrained(folder, local_files_only=True)
            self.model = model.to(device).eval()
            self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError) as error:
            raise FeatureError(
                f"networks.clip={folder}: expected a CLIP model in transformers' layout ({error})"
            ) from error
        self.device = device

    @torch.no_grad()
    def __call__(self, frames: Frames, text: str) -> float:
        """The score of one video, uint8 (T, H, W, 3 or 4)."""
        chosen = np.unique(np.linspace(0, len(frames) - 1, CLIP_FRAMES).round().astype(int))
        side = self.model.config.vision_config.image_size
        pictures = torch.from_numpy(composite(frames[chosen])).permute(0, 3, 1, 2)
        pictures = torch.nn.functional.interpolate(
            pictures, (side, side), mode="bicubic", antialias=True, align_corners=False
        ).clamp(0, 1)
        pictures = (pictures - torch.tensor(CLIP_MEAN)[:, None, None]) / torch.tensor(CLIP_STD)[:, None, None]
        tokens = self.tokenizer(text, return_tensors="pt", truncation=True, padding=True)
        output = self.model(pixel_values=pictures.to(self.device), **tokens.to(self.device))
        cosines = torch.nn.functional.cosine_similarity(output.image_embeds, output.text_embeds)
        return float((100 * cosines).clamp_min(0).mean())


class VideoFeatures:
    """Vectors of whole videos for FVD.

    Args:
        path: a TorchScript file, uint8 (N, 3, T, H, W) -> (N, D), which does its own resizing.
        device: where it runs.
    """

    def __init__(self, path: str, device: torch.device) -> None:
        self.path, self.device = path, device
        self.module = load_torchscript(path, device)

    @torch.no_grad()
    def __call__(self, frames: Frames) -> Tensor:
        """One video, uint8 (T, H, W, 3 or 4), on mid-grey -> (1, D)."""
        video = torch.from_numpy(np.rint(composite(frames) * 255).astype(np.uint8)).permute(3, 0, 1, 2)[None]
        features = self.module(video.to(self.device))
        if features.dim() != 2 or len(features) != 1:
            raise FeatureError(f"networks.fvd={Path(self.path)}: expected features (1, D), got {tuple(features.shape)}")
        return features
