"""The schema of `generate.py`: every key, its type and its range.  `conf/generate.yaml` holds the values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Le, Len, Lt
from pydantic import Strict

from wan_alpha.schema import STRICT, BaseConfig, Count, Natural, Positive, Seed


@dataclass
class EdgesConfig:
    """Clean edges; 0 leaves either out."""

    __pydantic_config__ = STRICT
    threshold: Annotated[float, Ge(0), Lt(0.5)]  # alpha below becomes 0, above 1 - this becomes 1
    bleed: Natural  # pixels that visible colour spreads into the invisible


@dataclass
class GenerateConfig:
    """One call of generate.py."""

    __pydantic_config__ = STRICT
    task: Literal["t2v", "i2v"]
    base: BaseConfig
    prompt: str | None  # what to show; or give prompts
    prompts: str | None  # bench, transpixeler, or a file: see `evaluation.prompts`
    negative_prompt: str | None  # what guidance leads away from; null: the empty prompt
    image: str | None  # first frame, for task=i2v
    adapters: str | list[str] | None
    distill: str | None  # LightX2V or CausVid LoRA: 4 steps, guidance 1
    preview: str | None  # a TAEHV file: a tiny decoder, for a quick look
    out: str  # folder of the files
    formats: Annotated[list[Literal["mov", "webm", "mkv", "apng", "webp", "png", "exr", "mp4"]], Len(1)]
    seed: Seed | Annotated[list[Seed], Len(1)]  # several: that many videos of each prompt
    num_frames: Count | None  # null: what the base was made for
    height: Count | None  # pixels; null: what the base was made for
    width: Count | None  # pixels; null: what the base was made for
    num_inference_steps: Count | None  # null: 50, or 4 for a distilled model
    guidance_scale: Annotated[float, Ge(0)] | None  # null: 5, or 1 for a distilled model
    shift: Positive | None  # of the timesteps; null: the base's own, or 5 for a distilled model
    fps: Annotated[float, Ge(1), Le(240)] | None  # null: the base's own
    batch_size: Count  # videos made at once
    merge: bool  # adapters folded into the weights
    device: str  # auto (a GPU if there is one), cpu, cuda, cuda:1
    dtype: Literal["auto", "float32", "bfloat16", "float16"]  # auto: bfloat16 on a GPU
    offload: Literal["none", "model", "sequential"]  # weights wait in main memory
    tile: Annotated[int, Strict(), Ge(1), Le(1024)] | None  # decode in tiles of this many latent cells
    edges: EdgesConfig
    background: str  # of mp4: checkerboard, a colour, a picture or a video
    overwrite: bool  # false: files that are there are kept and not made again
