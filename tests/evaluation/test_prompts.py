"""Prompt lists: the project's own is what it claims to be, files of every kind are read, and mistakes are named."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

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


class Published(BaseHTTPRequestHandler):
    """A project page that has a list of the published one's form; `cut` breaks the connection in the middle of it."""

    content = json.dumps({"001": "a stand-in for the published list", "002": "another"}, indent=4).encode()
    requests: ClassVar[list[str]] = []
    cut = False

    def do_GET(self) -> None:
        self.requests.append(self.path)
        self.send_response(200 if self.path == "/text_to_rgba.json" else 404)
        self.send_header("Content-Length", str(len(self.content)))
        self.end_headers()
        self.wfile.write(self.content[: 20 if self.cut else None])

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Published]]:
    """Served on this machine, in the place of the project's page."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with ThreadingHTTPServer(("127.0.0.1", 0), Published) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.setattr(module, "TRANSPIXELER_URL", f"http://127.0.0.1:{server.server_port}/text_to_rgba.json")
        monkeypatch.setattr(Published, "requests", [])
        yield Published
        server.shutdown()


def test_transpixelers_list_is_fetched_once_checked_and_kept(
    page: type[Published], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = tmp_path / "cache" / "wan-alpha" / module.TRANSPIXELER_FILE
    with pytest.raises(PromptError, match=r"what http://127.* gives has sha256 .*expected bb69e240"):
        load_prompts("transpixeler")
    assert not kept.exists()  # a portal's page is not the list for ever
    monkeypatch.setattr(module, "TRANSPIXELER_SHA256", hashlib.sha256(page.content).hexdigest())
    for _ in range(2):
        assert [p.id for p in load_prompts("transpixeler")] == ["001", "002"]
    assert page.requests == ["/text_to_rgba.json"] * 2  # refused once, fetched once, then from the cache
    kept.write_bytes(b"{}")
    with pytest.raises(PromptError, match=r"text_to_rgba.json has sha256 .* remove the file"):
        load_prompts("transpixeler")
    assert len(page.requests) == 2


@pytest.mark.parametrize("trouble", ["cut", "gone", "refused"])
def test_a_list_that_cannot_be_fetched_is_asked_for(
    trouble: str, page: type[Published], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "cut", trouble == "cut")
    if trouble == "gone":
        monkeypatch.setattr(module, "TRANSPIXELER_URL", module.TRANSPIXELER_URL + "5")
    if trouble == "refused":
        monkeypatch.setattr(module, "TRANSPIXELER_URL", "http://127.0.0.1:9/text_to_rgba.json")
    with pytest.raises(PromptError, match=r"cannot fetch .* prompts=PATH/text_to_rgba\.json"):
        load_prompts("transpixeler")
    assert not (tmp_path / "cache").exists()
