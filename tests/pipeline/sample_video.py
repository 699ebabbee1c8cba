"""A video whose pixels are known, and how a small pipeline is called."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.testing import assert_close

from wan_alpha.pipeline.pipeline import AlphaWanPipeline
from wan_alpha.pipeline.video import Video

SIZE = {"num_frames": 5, "height": 32, "width": 48}
FAST = {**SIZE, "num_inference_steps": 2, "guidance_scale": 1.0}


def quiet(pipe: AlphaWanPipeline) -> AlphaWanPipeline:
    pipe.set_progress_bar_config(disable=True)
    return pipe


def agree(a: Tensor, b: Tensor, tolerance: float = 1e-4) -> None:
    assert_close(a, b, rtol=0, atol=tolerance)


def disc(frames: int = 4, height: int = 48, width: int = 64, fps: float = 16.0) -> Video:
    """A soft disc of a smooth colour that wanders; around it alpha is 0 and the hidden colour is something else."""
    t, y, x = torch.meshgrid(*(torch.arange(n).float() for n in (frames, height, width)), indexing="ij")
    distance = torch.hypot(x - width / 2 - 2 * t, y - height / 2)
    alpha = ((height / 3 - distance) / 6 + 0.5).clamp(0, 1)
    colour = torch.stack([0.9 * x / width, 0.3 + 0.5 * y / height, torch.full_like(x, 0.2)])
    rgb = torch.where(alpha > 0, colour, torch.tensor([0.1, 0.1, 0.6])[:, None, None, None]) * 2 - 1
    return Video(rgb[None], alpha[None, None], fps, {"prompt": "a disc", "seed": 7, "base": "none"})
