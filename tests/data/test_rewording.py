"""Captions in other words."""

from __future__ import annotations

import numpy as np

from wan_alpha.data.rewording import vary_caption


def variants(caption: str, ground: str | None, count: int = 400) -> list[str]:
    return [vary_caption(caption, ground, np.random.default_rng(n)) for n in range(count)]


def test_a_caption_keeps_its_words_and_gains_others() -> None:
    said = variants("owl", "red")
    assert all("owl" in words for words in said)
    assert {"owl", "an owl", "the owl", "an owl on a red background"} <= set(said)
    assert "a owl" not in " ".join(said)
    assert any("turning" in words for words in said)
    assert 0.5 < np.mean(["on a red background" in words for words in said]) < 0.7


def test_nothing_is_made_of_nothing_and_articles_are_not_doubled() -> None:
    assert set(variants("", "red")) == {""}
    assert not any("a the" in words for words in variants("the owl", None))
    assert not any("background" in words for words in variants("owl", None))


def test_the_same_numbers_give_the_same_words() -> None:
    assert variants("owl", "red", 20) == variants("owl", "red", 20)
    one, other = np.random.default_rng(5), np.random.default_rng(5)
    vary_caption("owl", "red", one)
    vary_caption("old owl, flying", None, other)
    assert one.random() == other.random()  # what comes after does not depend on the words
