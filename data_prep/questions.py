"""What a vision model is asked about a clip, and which answers are believed."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from wan_alpha.data.captions import CAPTION_FIELDS, LABELS, language_of

FIELDS = (*CAPTION_FIELDS, "labels")
"""What can be asked for: four captions, and all labels in one answer."""

SCENE = (
    "The pictures show the same {count} moments of one video, in reading order, first on a grey checkerboard, then on "
    "flat {colour}. Checkerboard and flat colour are not part of the video: they fill what is transparent in it, and "
    "where they shine through, the video is translucent (glass, smoke, glow, soft edges)."
)
CAPTION_RULES = (
    "Describe the subject, what it looks like, how it moves from moment to moment, and what of it is translucent or "
    "glowing. Write about the video only: nothing of pictures, moments, checkerboard, flat colour or background. "
    "Answer with the description alone."
)
LENGTHS = {
    "short_en": "Describe the video in one English sentence of at most 25 words.",
    "long_en": "Describe the video in three to five English sentences, 50 to 120 words in all.",
    "short_zh": "请用一句简体中文描述这段视频,不超过40个字。只回答描述本身。",
    "long_zh": "请用三到五句简体中文描述这段视频,共80到200个字。只回答描述本身。",
}
HINT = "The file is called {hint!r}, which may help or mislead."
MEANINGS = {
    "style": "realistic: filmed or looks so; effects: fire, smoke, light, particles; cartoon_3d: rendered; cartoon: "
    "drawn",
    "shot": "detail: part of a thing; close_up: a face or one small thing fills the picture; close: head and shoulders "
    "or a thing from near; medium: half a figure; wide: a whole figure or thing with room around it; far: far off",
    "speed": "slow: slow motion; normal; fast: time lapse or hectic",
    "quality": "clear; greyish: washed-out colours; blurred: out of focus or smeared throughout",
}
LIMITS = {"short_en": (3, 60), "long_en": (20, 260), "short_zh": (4, 90), "long_zh": (30, 500)}
"""Fewest and most words (Chinese: characters) of a caption that is believed."""
MAX_TOKENS = {"short_en": 128, "long_en": 512, "short_zh": 160, "long_zh": 640, "labels": 128}

_MARKUP = re.compile(r"<\|[^|]*\|>|</?(?:think|s|unk|pad|tool_call)>|\ufffd", re.IGNORECASE)
_REFUSAL = re.compile(
    r"^(?:i'?m sorry|sorry,|i am sorry|i can(?:no|')t|i am unable|i'?m unable|as an ai|"
    r"抱歉|对不起|很抱歉|作为一个?(?:ai|人工智能)|我无法)",
    re.IGNORECASE,
)
_BACKDROP = re.compile(
    r"(?:on|against|over|of) (?:an? |the )?(?:gr[ae]y |white )*checker|checker(?:ed|board) (?:back|pattern)|"
    r"grid of|frames? (?:of|show)|棋盘格?(?:状|式)?的?背景|方格背景|第[一二三四五六]帧",
    re.IGNORECASE,
)
_FENCE = re.compile(r"```(?:json)?\s*(.*?)```", re.DOTALL)


class NonsenseError(ValueError):
    """An answer that is not what was asked for."""


@dataclass(frozen=True)
class Question:
    """One question about one clip: its words, the longest answer, and what makes values out of an answer."""

    field: str
    prompt: str
    max_tokens: int
    read: Callable[[str], dict[str, str]]


def question(field: str, count: int, colour: str, hint: str, labels: Sequence[str]) -> Question:
    """What to ask for a field.

    Args:
        field: one of `FIELDS`.
        count: frames in each picture.
        colour: name of the flat colour.
        hint: what the clip is called so far; empty: nothing is said about it.
        labels: names of the labels to ask for.
    """
    scene = " ".join([SCENE.format(count=count, colour=colour), *([HINT.format(hint=hint)] if hint else [])])
    if field == "labels":
        lines = [f'"{name}": one of {", ".join(LABELS[name])} ({MEANINGS[name]})' for name in labels]
        ask = "Classify the video. Answer with one JSON object and nothing else, with these keys:\n" + "\n".join(lines)
        return Question(field, f"{scene}\n{ask}", MAX_TOKENS[field], lambda answer: read_labels(answer, labels))
    ask = f"{CAPTION_RULES}\n{LENGTHS[field]}"
    return Question(field, f"{scene}\n{ask}", MAX_TOKENS[field], lambda answer: {field: read_caption(answer, field)})


def read_caption(answer: str, field: str) -> str:
    """The caption in an answer.

    Raises:
        NonsenseError: it is empty, a refusal, markup, JSON, in the wrong language, too short or too long, runs in
            circles, or speaks of what the clip was shown on.
    """
    text = re.sub(r"\s+", " ", answer).strip().strip("\"“”'「」").strip()
    language, (least, most) = field[-2:], LIMITS[field]
    count = len(re.findall(r"[\u3400-\u9fff]", text)) if language == "zh" else len(text.split())
    unit = "characters" if language == "zh" else "words"
    problems = {
        "the answer is empty": not text,
        "the answer holds markup or bytes that are not text": _MARKUP.search(text),
        "the model refused": _REFUSAL.search(text),
        "the answer is JSON, expected a sentence": text[:1] in "{[",
        f"expected {'Chinese' if language == 'zh' else 'English'}": language_of(text) != language,
        f"{count} {unit}, expected {least} to {most}": not least <= count <= most,
        "the answer runs in circles": runs_in_circles(text),
        "it describes what the clip was shown on": _BACKDROP.search(text),
    }
    for problem, found in problems.items():
        if found:
            raise NonsenseError(problem)
    return text


def read_labels(answer: str, names: Sequence[str]) -> dict[str, str]:
    """The labels in an answer, each from its closed vocabulary.

    Raises:
        NonsenseError: it is not a JSON object, lacks a label, or has a value outside the vocabulary.
    """
    fenced = _FENCE.search(answer)
    text = (fenced.group(1) if fenced else answer).strip()
    try:
        found = json.loads(text)
    except ValueError:
        raise NonsenseError("the answer is not JSON") from None
    if not isinstance(found, Mapping):
        raise NonsenseError(f"expected a JSON object, got a {type(found).__name__}")
    values: dict[str, str] = {}
    for name in names:
        value = found.get(name)
        if not isinstance(value, str) or value.strip().lower() not in LABELS[name]:
            raise NonsenseError(f"{name}={value!r}: expected one of {', '.join(LABELS[name])}")
        values[name] = value.strip().lower()
    return values


def runs_in_circles(text: str, times: int = 4) -> bool:
    """Whether a piece of the text follows upon itself again and again, as stuck models write."""
    return re.search(rf"(.{{2,60}}?)\1{{{times - 1}}}", text) is not None
