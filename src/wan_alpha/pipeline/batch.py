"""Which videos one call of the pipeline makes: the prompt, negative prompt and seed of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def batch(
    prompt: str | list[str] | None,
    negative_prompt: str | list[str] | None,
    seed: int | Sequence[int] | None,
    options: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """What metadata says of each video, in the order in which diffusers makes them: prompt after prompt.

    Args:
        prompt, negative_prompt, seed: as in `AlphaWanPipeline.__call__`.
        options: further arguments of the call; `prompt_embeds`, `num_videos_per_prompt` and `generator` count.

    Returns:
        `prompt`, `negative_prompt` and `seed` of each; the seed is None where a generator is given instead.

    Raises:
        ValueError: the numbers do not go together, or both a seed and a generator are given.
    """
    embeds = options.get("prompt_embeds")
    prompts = prompt if isinstance(prompt, list) else [""] * len(embeds) if embeds is not None else [prompt or ""]
    negatives = negative_prompt if isinstance(negative_prompt, list) else [negative_prompt] * len(prompts)
    if len(negatives) != len(prompts):
        raise ValueError(f"{len(negatives)} negative prompts for {len(prompts)} prompts: give one for all, or one each")
    has_generator = options.get("generator") is not None
    if has_generator and seed is not None:
        raise ValueError("a seed and a generator are given: the generator decides the noise, leave one of them out")
    seeds = [int(s) for s in seed] if isinstance(seed, Sequence) else [int(seed or 0)] * len(prompts)
    if len(seeds) != len(prompts):
        raise ValueError(f"{len(seeds)} seeds for {len(prompts)} prompts: give one for all, or one each")
    several = range(options.get("num_videos_per_prompt") or 1)
    return [
        {"prompt": text, "negative_prompt": negative, "seed": None if has_generator else first + number}
        for text, negative, first in zip(prompts, negatives, seeds, strict=True)
        for number in several
    ]
