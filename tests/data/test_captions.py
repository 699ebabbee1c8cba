"""What a sample's text says, and that drawing it disturbs nothing else."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from wan_alpha.data.captions import LABELS, PHRASES, CaptionStyle, Placing, compose, language_of
from wan_alpha.data.dataset import ClipDataset
from wan_alpha.data.source import Clip

CAPTIONS = {
    "short_en": "A cup",
    "long_en": "A cup of tea steams.",
    "short_zh": "一只杯子",
    "long_zh": "一杯茶冒着热气。",
}
LABELLED = {"style": "cartoon", "shot": "close", "speed": "normal", "quality": "greyish"}
ENGLISH = CaptionStyle(languages={"en": 1.0})


def clip(caption: str = "cup", **meta: object) -> Clip:
    return Clip("cup", 9, 24.0, 16, 16, caption, "train", meta)


def texts(subject: Clip, style: CaptionStyle, count: int = 2000) -> Counter[str]:
    return Counter(compose(subject, np.random.default_rng((5, n)), style) for n in range(count))


def test_a_text_is_a_pure_function_of_the_numbers_it_is_given() -> None:
    one, two = (
        compose(clip(captions=CAPTIONS, labels=LABELLED), np.random.default_rng(3), CaptionStyle()) for _ in "ab"
    )
    assert one == two
    assert len(texts(clip(captions=CAPTIONS, labels=LABELLED), CaptionStyle())) > 200


def test_languages_and_lengths_follow_their_weights_and_what_there_is() -> None:
    bare = CaptionStyle(languages={"en": 3, "zh": 1}, lengths={"long": 1}, labels={}, transparency=Placing(keep=0))
    drawn = texts(clip(captions=CAPTIONS), bare)
    assert set(drawn) == {"A cup of tea steams.", "一杯茶冒着热气。"}
    assert drawn["A cup of tea steams."] == pytest.approx(1500, abs=80)
    assert set(texts(clip(captions={"short_zh": "一只杯子", "long_en": ""}), bare, 20)) == {"cup"}  # no long caption
    assert set(texts(clip(captions=["a", "b"]), bare, 50)) == {"a", "b"}
    assert set(texts(clip(), bare, 20)) == {"cup"}


def test_sentences_go_before_or_after_each_by_its_own_odds() -> None:
    style = CaptionStyle(
        labels={"style": Placing(keep=0.25, before=1.0), "quality": Placing(keep=1.0, before=0.2)},
        transparency=Placing(keep=0.5, before=0.0),
    )
    drawn = texts(clip(labels=LABELLED), style)
    of_style, of_quality = LABELS["style"]["cartoon"]["en"], LABELS["quality"]["greyish"]["en"]

    def share(words: tuple[str, ...], before: bool) -> float:
        def there(text: str) -> bool:
            head, _, tail = text.partition("cup")
            return any(word in (head if before else tail) for word in words)

        return sum(count for text, count in drawn.items() if there(text)) / 2000

    assert share(of_style, True) == pytest.approx(0.25, abs=0.04)
    assert share(of_style, False) == 0
    assert share(of_quality, True) == pytest.approx(0.2, abs=0.04)
    assert share(of_quality, False) == pytest.approx(0.8, abs=0.04)
    assert share(tuple(PHRASES["en"]), False) == pytest.approx(0.5, abs=0.05)
    assert share(tuple(PHRASES["en"]), True) == 0


def test_sentences_speak_the_caption_s_language_and_every_wording_occurs() -> None:
    drawn = texts(clip(captions={"short_zh": CAPTIONS["short_zh"]}, labels=LABELLED), CaptionStyle())
    assert all(not any(char.isascii() and char.isalpha() for char in text) for text in drawn)
    assert all(text.count("一只杯子") == 1 and text.endswith("。") and "。。" not in text for text in drawn)
    for phrase in PHRASES["zh"]:
        assert any(phrase in text for text in drawn)
    assert language_of("a 茶 ceremony in Kyoto") == "en"
    assert language_of("使用3D风格的parrot") == "zh"


def test_what_is_ordinary_unknown_or_forbidden_goes_unsaid() -> None:
    style = CaptionStyle(labels={"speed": Placing(), "shot": Placing()}, transparency=Placing(keep=0))
    assert set(texts(clip(labels={"speed": "normal", "shot": "sideways"}), style, 20)) == {"cup"}
    assert compose(clip(labels=LABELLED, captions=CAPTIONS), None, ENGLISH).count(".") == 5


def test_the_likeliest_form_is_always_the_same() -> None:
    likeliest = compose(clip(labels={"style": "cartoon"}), None, CaptionStyle())
    assert likeliest == "cup. Cartoon style. The background is transparent."


class OneClip:
    """A source of one small clip."""

    problems: list[str] = []  # noqa: RUF012
    manifest_hash = ""

    def __init__(self) -> None:
        self.clips = [clip(captions=CAPTIONS, labels=LABELLED)]
        self.frames = np.random.default_rng(0).integers(0, 255, (9, 16, 16, 4), np.uint8)

    def __len__(self) -> int:
        return 1

    def read(self, index: int, start: int, count: int, stride: int = 1) -> np.ndarray:
        return self.frames[start : start + count * stride : stride]

    def describe(self, index: int) -> str:
        return "memory"


def test_composing_changes_no_other_draw_of_a_sample() -> None:
    plain, composed = (ClipDataset(OneClip(), 5, 12, seed=7, scale=(1, 2), captions=c) for c in (None, CaptionStyle()))
    said = set()
    for n in range(12):
        a, b = plain[n], composed[n]
        for name in ("rgb", "alpha", "background", "canvas"):
            assert torch.equal(a[name], b[name])  # type: ignore[literal-required]
        assert a["caption"] == "cup"
        assert composed[n]["caption"] == b["caption"]
        said.add(b["caption"])
    assert len(said) > 6
    still = ClipDataset(OneClip(), 5, 12, augment=False, captions=ENGLISH)
    assert {still[n]["caption"] for n in range(4)} == {still[0]["caption"]}


@pytest.mark.parametrize(
    "wrong",
    [{"languages": {"fr": 1}}, {"labels": {"mood": {}}}, {"transparency": {"keep": 2}}, {"phrases": {"en": []}}],
)
def test_configuration_is_checked(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(CaptionStyle).validate_python(wrong)
