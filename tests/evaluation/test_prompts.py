"""Prompt lists: the project's own is what it claims to be, files of every kind are read, and mistakes are named."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from pathlib import Path

import pytest

from wan_alpha.evaluation import prompts as module
from wan_alpha.evaluation.prompts import EXPECTED, PromptError, load_prompts

SUBJECTS = {"hair", "fur", "glass", "smoke", "fire", "glow", "liquid", "cloth", "particles", "motion-blur",
            "multiple-subjects", "text"}  # fmt: skip


def test_the_bench_covers_what_it_promises() -> None:
    prompts = load_prompts("bench")
    assert len(prompts) >= 60
    assert {p.category for p in prompts} == SUBJECTS
    assert len({p.text for p in prompts}) == len({p.id for p in prompts}) == len(prompts)
    chinese = Counter(p.category for p in prompts if re.search(r"[\u4e00-\u9fff]", p.text))
    english = Counter(p.category for p in prompts if not re.search(r"[\u4e00-\u9fff]", p.text))
    assert min(chinese[s] for s in SUBJECTS) >= 2
    assert min(english[s] for s in SUBJECTS) >= 3
    assert {p.expects for p in prompts} == set(EXPECTED)
    assert all(p.expected_share for p in prompts)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("p.json", '{"001": "a coin", "002": "a cat"}'),
        ("p.json", '[{"id": "001", "text": "a coin"}, {"id": "002", "prompt": "a cat"}]'),
        ("p.yaml", "prompts:\n  - {id: '001', text: a coin}\n  - {id: '002', text: a cat}\n"),
        ("p.csv", "\ufeffid,text\n001,a coin\n002,a cat\n"),
        ("p.txt", "a coin\n\n  a cat\n"),
    ],
)
def test_every_form_of_file(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    assert [(p.id, p.text, p.expects) for p in load_prompts(str(tmp_path / name))] == [
        ("001", "a coin", None),
        ("002", "a cat", None),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"id": "a", "text": "x"}, {"id": "a", "text": "y"}]', "id 'a' comes twice"),
        ('[{"id": "a", "text": "x", "expects": "airy"}]', "a expects 'airy'; known: opaque, edges, part, mostly"),
        ('[{"id": "../a", "text": "x"}]', "cannot be a file name"),
        ('[{"id": "a"}]', "a prompt without text"),
        ("[]", "no prompts in it"),
        ("{", "cannot be read"),
        ("[1]", "expected texts, found 1"),
        ('"a cat"', "expected a list of prompts"),
    ],
)
def test_mistakes_are_named(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text(text)
    with pytest.raises(PromptError, match=message):
        load_prompts(str(tmp_path / "p.json"))


def test_transpixelers_list_is_fetched_once_checked_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    published = tmp_path / "published.json"
    published.write_text(json.dumps({"001": "a stand-in for the published list"}))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(module, "TRANSPIXELER_URL", published.as_uri())
    with pytest.raises(PromptError, match="expected bb69e240"):
        load_prompts("transpixeler")
    monkeypatch.setattr(module, "TRANSPIXELER_SHA256", hashlib.sha256(published.read_bytes()).hexdigest())
    assert [p.id for p in load_prompts("transpixeler")] == ["001"]
    published.unlink()
    assert [p.id for p in load_prompts("transpixeler")] == ["001"]  # from the cache
    (tmp_path / "cache" / "wan-alpha" / module.TRANSPIXELER_FILE).unlink()
    with pytest.raises(PromptError, match=r"cannot fetch .* prompts=PATH/text_to_rgba\.json"):
        load_prompts("transpixeler")
