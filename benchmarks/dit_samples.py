"""What the shipped generator makes of 24 prompts, with fixed seeds and nothing chosen: docs/dit_samples.png and .webp.

    python -m benchmarks.dit_samples [ADAPTERS [OUT_STEM]]

The upper twelve prompts are made of captions that training saw.  Of the lower twelve, the first eight are combinations
that `data.exclude` kept from training, though it saw each word; the last four are concepts of the held-out split.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from wan_alpha import AlphaWanPipeline
from wan_alpha.evaluation.gallery import gallery, on_checkerboard

TRAINED = (
    "a parrot", "fire", "a snowflake turning", "an elephant", "a rocket", "a beating heart", "a penguin", "a ghost",
    "a grinning face with smiling eyes", "a purple heart", "a teddy bear", "a woman teacher",
)  # fmt: skip
HELD_OUT = (
    "a green heart", "a woman astronaut", "a crying cat", "a man juggling", "a woman vampire", "a man surfing",
    "a tiger face", "a woman scientist", "a red heart", "an octopus", "a waving hand", "an owl",
)  # fmt: skip
STEPS, GUIDANCE, FIRST_SEED = 20, 4.0, 100


def main(adapters: str = "tiny", out: str = "docs/dit_samples") -> None:
    """Sample, draw, write."""
    pipeline = AlphaWanPipeline.from_pretrained("tiny", adapters)
    pipeline.set_progress_bar_config(disable=True)
    halves = []
    for prompts, title in ((TRAINED, "prompts of captions that training saw"), (HELD_OUT, "held-out words together")):
        first = FIRST_SEED + len(halves) * len(prompts)
        seeds = list(range(first, first + len(prompts)))
        videos = pipeline(
            [f"{prompt} on a transparent background" for prompt in prompts], num_frames=9, height=64, width=64,
            num_inference_steps=STEPS, guidance_scale=GUIDANCE, seed=seeds,
        )  # fmt: skip
        tiles = [on_checkerboard(v.rgb[0], v.alpha[0], 128) for v in videos]
        title += f": seeds {seeds[0]} to {seeds[-1]}, {STEPS} steps, guidance {GUIDANCE:g}"
        halves.append(gallery(tiles, prompts, title=title))
    frames = [Image.fromarray(page) for page in np.concatenate(halves, axis=1)]
    stem = Path(out)
    frames[len(frames) // 2].save(stem.with_suffix(".png"), optimize=True)
    frames[0].save(
        stem.with_suffix(".webp"), save_all=True, append_images=frames[1:], duration=83, loop=0, quality=80, method=4
    )
    print(f"{stem}.png and .webp")


if __name__ == "__main__":
    main(*sys.argv[1:])
