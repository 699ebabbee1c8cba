"""What a sample's text says: a caption, sentences of its labels, and a phrase about transparency.

    "Close shot. A glass of tea steams. The background is transparent. Realistic style."

Which caption (language, length), which sentences, on which side of the caption and in which words: all drawn from the
sample's own random numbers.  The labels and the habit of putting their sentences before or after the caption are those
of the Wan-Alpha release (PAPER: style, shot size, speed, quality; front and back about even).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Ge, Le, Len

from wan_alpha.data.source import Clip

Language = Literal["en", "zh"]
Length = Literal["short", "long"]
LabelName = Literal["style", "shot", "speed", "quality"]
Share = Annotated[float, Ge(0), Le(1)]
Weight = Annotated[float, Ge(0)]

CAPTION_FIELDS = ("short_en", "long_en", "short_zh", "long_zh")
"""Names of written captions: length, then language."""

LABELS: dict[str, dict[str, dict[str, tuple[str, ...]]]] = {
    "style": {
        "realistic": {"en": ("Realistic style", "Photorealistic"), "zh": ("写实风格", "真实风格")},
        "effects": {"en": ("Visual effects footage", "A visual effect"), "zh": ("特效风格", "视觉特效")},
        "cartoon_3d": {"en": ("3D cartoon style", "3D animation style"), "zh": ("3D卡通风格", "三维卡通风格")},
        "cartoon": {"en": ("Cartoon style", "2D cartoon style"), "zh": ("卡通风格", "二维卡通风格")},
    },
    "shot": {
        "detail": {"en": ("Detail shot", "Extreme close-up"), "zh": ("细节镜头", "大特写")},
        "close_up": {"en": ("Close-up", "Close-up shot"), "zh": ("特写", "特写镜头")},
        "close": {"en": ("Close shot", "Shot from close by"), "zh": ("近景", "近景镜头")},
        "medium": {"en": ("Medium shot", "Mid shot"), "zh": ("中景", "中景镜头")},
        "wide": {"en": ("Wide shot", "Full shot"), "zh": ("全景", "全景镜头")},
        "far": {"en": ("Far shot", "Long shot"), "zh": ("远景", "远景镜头")},
    },
    "speed": {
        "slow": {"en": ("Slow motion", "Moving slowly"), "zh": ("慢动作", "慢速运动")},
        "normal": {"en": (), "zh": ()},
        "fast": {"en": ("Fast motion", "Moving fast"), "zh": ("快动作", "快速运动")},
    },
    "quality": {
        "clear": {"en": (), "zh": ()},
        "greyish": {"en": ("Greyish picture", "The colours are greyish"), "zh": ("画面偏灰", "画面灰蒙蒙")},
        "blurred": {"en": ("Blurred picture", "The picture is blurred"), "zh": ("画面模糊", "画质模糊")},
    },
}
"""The closed vocabulary: label, its values, and the sentences that say so; a value without sentences goes unsaid."""

PHRASES = {
    "en": ["The background is transparent", "Transparent background", "On a transparent background"],
    "zh": ["背景透明", "透明背景", "背景是透明的"],
}
_CHINESE = re.compile(r"[\u3400-\u9fff]")
_STOPS = ".!?。！？…"


@dataclass
class Placing:
    """How often a sentence is there, and how often before the caption (else after it)."""

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012
    keep: Share = 1.0  # how often the sentence is there
    before: Share = 0.5  # how often it stands before the caption, else after it


def _placings() -> dict[LabelName, Placing]:
    return {"style": Placing(), "shot": Placing(), "speed": Placing(), "quality": Placing()}


def _phrases() -> dict[Language, Annotated[list[str], Len(1)]]:
    return {"en": list(PHRASES["en"]), "zh": list(PHRASES["zh"])}


@dataclass
class CaptionStyle:
    """Odds of everything `compose` draws.

    Attributes:
        languages, lengths: weights; what a clip does not have is left out of the draw.
        labels: for each label; one that is missing here is never said.
        transparency: of the phrase about transparency.
        phrases: its words in either language, one of which is drawn.
    """

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012
    languages: dict[Language, Weight] = field(default_factory=lambda: {"en": 1.0, "zh": 1.0})  # weights
    lengths: dict[Length, Weight] = field(default_factory=lambda: {"short": 1.0, "long": 1.0})  # weights
    labels: dict[LabelName, Placing] = field(default_factory=_placings)  # a sentence for each label
    transparency: Placing = field(default_factory=Placing)  # the phrase that asks for transparency
    phrases: dict[Language, Annotated[list[str], Len(1)]] = field(default_factory=_phrases)  # its words


def compose(clip: Clip, rng: np.random.Generator | None, style: CaptionStyle) -> str:
    """The text of one sample of a clip.

    Args:
        clip: `caption` is what it came with; `meta` may have `captions` (a dict of `CAPTION_FIELDS`, or a list of
            equals) and `labels` (a dict from `LABELS`).
        rng: the sample's own random numbers; none: the likeliest form in the vocabulary's first words, every time.
        style: the odds.

    Returns:
        The text; empty if the clip has no caption and nothing is said about it.
    """
    caption, language = _choose(clip, rng, style)
    said = [(_wordings(clip, name, language), placing) for name, placing in style.labels.items()]
    said.append((tuple(style.phrases.get(language, ())), style.transparency))
    before: list[str] = []
    after: list[str] = []
    for index in rng.permutation(len(said)) if rng else range(len(said)):
        words, placing = said[index]
        keep, first, which = rng.random(3) if rng else (0.5, 0.5, 0.0)
        if words and keep < placing.keep:
            (before if first < placing.before else after).append(words[int(which * len(words))])
    if not before and not after:
        return caption
    sentences = [_sentence(text, language) for text in (*before, caption, *after) if text]
    return ("" if language == "zh" else " ").join(sentences)


def hash_captions(clips: Iterable[Clip]) -> str:
    """sha256 of all that `compose` takes from clips: equal hashes mean equal texts for an equal style."""
    said = [[clip.caption, clip.meta.get("captions"), clip.meta.get("labels")] for clip in clips]
    return hashlib.sha256(json.dumps(said, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def language_of(text: str) -> Language:
    """Chinese if a fifth or more of its letters are Chinese characters."""
    letters = sum(char.isalpha() for char in text)
    return "zh" if letters and len(_CHINESE.findall(text)) >= letters / 5 else "en"


def _choose(clip: Clip, rng: np.random.Generator | None, style: CaptionStyle) -> tuple[str, Language]:
    """A caption of the clip and its language."""
    captions: Any = clip.meta.get("captions")
    if isinstance(captions, Mapping):
        there = {name: str(captions[name]) for name in CAPTION_FIELDS if captions.get(name)}
        odds = {name: _weight(name, style) for name in there}
        if there and sum(odds.values()) > 0:
            name = _draw(odds, rng)
            return there[name], "zh" if name.endswith("zh") else "en"
    elif isinstance(captions, list) and captions:
        text = str(captions[int(rng.integers(len(captions)))] if rng else captions[0])
        return text, language_of(text)
    return clip.caption, language_of(clip.caption)


def _weight(name: str, style: CaptionStyle) -> float:
    length, _, language = name.partition("_")
    return style.lengths.get(length, 0.0) * style.languages.get(language, 0.0)  # type: ignore[call-overload]


def _draw(odds: Mapping[str, float], rng: np.random.Generator | None) -> str:
    names = list(odds)
    if rng is None:
        return max(names, key=lambda name: odds[name])
    edges = np.cumsum([odds[name] for name in names])
    return names[min(int(np.searchsorted(edges, rng.random() * edges[-1], side="right")), len(names) - 1)]


def _wordings(clip: Clip, name: str, language: Language) -> tuple[str, ...]:
    labels: Any = clip.meta.get("labels")
    value = labels.get(name) if isinstance(labels, Mapping) else None
    return LABELS[name].get(str(value), {}).get(language, ())


def _sentence(text: str, language: Language) -> str:
    text = text.strip()
    return text if text[-1:] in _STOPS else text + ("。" if language == "zh" else ".")
