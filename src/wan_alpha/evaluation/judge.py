"""A vision model's opinion: how well a video shows what was asked for, and how natural it looks, from 1 to 5.

As the papers of the field ask GPT-4o.  Off unless an endpoint is named: any server that speaks OpenAI's chat
completions with pictures will do.  Judges differ between models and versions: their name belongs beside their numbers.
"""

from __future__ import annotations

import base64
import io
import json
import os
import re
from typing import Any

import numpy as np
from PIL import Image

from wan_alpha.data.resize import Frames

QUESTION = """These are {count} frames, in order, of one video that was made for this request:

{prompt}

The video has a transparent background: the grey and white checkerboard is not part of it.
Judge two things, each with a whole number from 1 to 5:
alignment: 1 shows nothing of what was asked for, 3 shows the main subject but misses details, motion or style, \
5 shows all of it.
naturalness: 1 is broken or unrecognisable, 3 is recognisable with clear flaws in shape, texture or motion, \
5 could be real footage or professional animation.
Answer with JSON only: {{"alignment": N, "naturalness": N}}"""
CELL = 16


class JudgeError(RuntimeError):
    """The judge cannot be asked."""


class Judge:
    """Asks one model about one video at a time.

    Args:
        endpoint: base URL, such as http://127.0.0.1:8000/v1.
        model: its name there.
        key_variable: name of the environment variable that holds the key; a server without keys takes any.
        frames: shown per video, evenly spaced.
    """

    def __init__(self, endpoint: str, model: str, key_variable: str, frames: int) -> None:
        try:
            from openai import OpenAI
        except ImportError as error:
            raise JudgeError("judge.endpoint needs the openai package: pip install 'wan-alpha[data]'") from error
        self.client = OpenAI(
            base_url=endpoint, api_key=os.environ.get(key_variable, "none"), timeout=120, max_retries=2
        )
        self.endpoint, self.model, self.frames = endpoint, model, frames

    def __call__(self, frames: Frames, prompt: str) -> dict[str, float]:
        """`judge_alignment` and `judge_naturalness`; NaN where the answer was none.

        Raises:
            JudgeError: the endpoint cannot be reached or refuses.
        """
        from openai import OpenAIError

        chosen = np.unique(np.linspace(0, len(frames) - 1, self.frames).round().astype(int))
        content: list[Any] = [{"type": "text", "text": QUESTION.format(count=len(chosen), prompt=prompt)}]
        content += [{"type": "image_url", "image_url": {"url": as_url(frames[t])}} for t in chosen]
        try:
            answer = self.client.chat.completions.create(
                model=self.model, messages=[{"role": "user", "content": content}], temperature=0, max_tokens=100, seed=0
            )
        except OpenAIError as error:
            raise JudgeError(f"judge: {self.endpoint} with model {self.model} does not answer: {error}") from error
        return marks(answer.choices[0].message.content or "")


def marks(answer: str) -> dict[str, float]:
    """The two numbers of an answer; a number that is missing or not from 1 to 5 is NaN."""
    found = re.search(r"\{[^{}]*\}", answer)
    try:
        given = json.loads(found.group(0)) if found else {}
    except ValueError:
        given = {}
    numbers = {}
    for name in ("alignment", "naturalness"):
        value = given.get(name)
        number = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else float("nan")
        numbers[f"judge_{name}"] = number if 1 <= number <= 5 else float("nan")
    return numbers


def as_url(frame: np.ndarray) -> str:
    """One frame, uint8 (H, W, 3 or 4), on a checkerboard, as a PNG in a data URL."""
    picture: Any = frame[..., :3].astype(np.float32)
    if frame.shape[-1] == 4:
        y, x = np.mgrid[: frame.shape[0], : frame.shape[1]]
        board = np.where((y // CELL + x // CELL) % 2 == 1, 204.0, 255.0)[..., None]
        alpha = frame[..., 3:].astype(np.float32) / 255
        picture = picture * alpha + board * (1 - alpha)
    buffer = io.BytesIO()
    Image.fromarray(np.rint(picture).astype(np.uint8)).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
