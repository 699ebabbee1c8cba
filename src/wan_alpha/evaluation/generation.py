"""The figures of one generated video: its own transparency and motion, without a true one beside it."""

from __future__ import annotations

from typing import Any

import numpy as np

from wan_alpha.data.premultiplied import looks_premultiplied
from wan_alpha.data.resize import Frames
from wan_alpha.evaluation import motion, transparency
from wan_alpha.evaluation.prompts import Prompt


def measure(frames: Frames, prompt: Prompt) -> tuple[dict[str, float], dict[str, Any]]:
    """Figures and notes of one video.

    Args:
        frames: uint8 (T, H, W, 4) straight, or (T, H, W, 3) for a composite that has no alpha: then every figure of
            alpha is absent.
        prompt: what was asked for.

    Returns:
        Figures (`figures.METRICS`; NaN where there was nothing to look at), and notes: `premultiplied`, `opaque`,
        `empty`.
    """
    colours = frames[..., :3].astype(np.float32) / 255
    if frames.shape[-1] == 3:
        return {
            "temporal_flickering": motion.temporal_flickering(colours),
            "motion_smoothness": motion.motion_smoothness(colours, None),
        }, {}
    alpha = frames[..., 3].astype(np.float32) / 255
    seen = motion.on_grey(colours, alpha)
    share = transparency.translucent_share(alpha)
    figures = {
        "temporal_flickering": motion.temporal_flickering(seen),
        "motion_smoothness": motion.motion_smoothness(seen, alpha),
        "flow_difference": motion.flow_difference(seen, alpha),
        "edge_width": transparency.edge_width(alpha),
        "translucent_share": share,
    }
    if prompt.expected_share is not None:
        figures["translucency_error"] = transparency.translucency_error(share, prompt.expected_share)
    figures |= {
        "background_leak": transparency.background_leak(alpha),
        "alpha_floor": transparency.alpha_floor(alpha),
        "alpha_flicker": motion.alpha_flicker(seen, alpha),
        "edge_agreement": transparency.edge_agreement(colours, alpha),
    }
    notes: dict[str, Any] = {}
    if looks_premultiplied(frames):
        notes["premultiplied"] = True
    if frames[..., 3].min() == 255:
        notes["opaque"] = True
    if not (alpha > transparency.VISIBLE).any():
        notes["empty"] = True
    return figures, notes
