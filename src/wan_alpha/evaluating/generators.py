"""generators.NAME=ADAPTERS: the videos of a system are made first, by the project's own pipeline."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from ..evaluation.prompts import Prompt
from .config import EvaluateConfig
from .record import write_text


def make_videos(config: EvaluateConfig, prompts: Sequence[Prompt], out: Path) -> dict[str, str]:
    """Every prompt by every generator, lossless, into out/videos/NAME; what is there already stays.

    Returns:
        NAME -> folder, like `videos`.
    """
    if not config.generators:
        return {}
    from ..pipeline.config import BaseConfig, EdgesConfig, GenerateConfig
    from ..pipeline.generate import generate

    asked = out / "videos" / "prompts.json"
    write_text(asked, json.dumps({p.id: p.text for p in prompts}, ensure_ascii=False, indent=2) + "\n")
    sampling = config.sampling
    folders = {}
    for name, adapters in config.generators.items():
        folder = out / "videos" / name
        generate(
            GenerateConfig(
                task="t2v", base=BaseConfig(config.base.name, config.base.path), prompt=None, prompts=str(asked),
                negative_prompt=None, image=None, adapters=adapters, distill=None, out=str(folder), formats=["mkv"],
                seed=config.seed, num_frames=sampling.num_frames, height=sampling.height, width=sampling.width,
                num_inference_steps=sampling.num_inference_steps, guidance_scale=sampling.guidance_scale, shift=None,
                fps=None, batch_size=1, merge=True,
                device="auto" if config.device == "auto" else "cpu" if config.device == "cpu" else "cuda",
                dtype="auto", offload="none", tile=None, edges=EdgesConfig(0, 0), background="checkerboard",
                overwrite=False,
            )
        )  # fmt: skip
        folders[name] = str(folder)
    return folders
