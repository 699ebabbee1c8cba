"""The contact sheet in a real browser, from disk."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from curated_clips import blobs, settings, write_folder

from data_prep.curate import curate

CHROMIUM = shutil.which("chromium")
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
EVIL = "</script><script>document.title='taken over'</script><b>&amp;"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    from playwright.sync_api import sync_playwright

    tmp_path = tmp_path_factory.mktemp("sheet")
    clips = {f"clip{n}": blobs(n) for n in range(6)} | {"copy": blobs(1)[:9], "still": blobs(7)[[0, 0, 0, 0]]}
    root = write_folder(tmp_path / "set", clips, val=("clip1",))
    records = root / "records.jsonl"
    records.write_text(records.read_text().replace("a clip3", EVIL.replace('"', '\\"')))
    out = curate(settings(f"root={root}", "thresholds.change.min=0.01"))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        found = browser.new_page(viewport={"width": 1200, "height": 800})
        found.problems, found.requests = [], []
        found.on("pageerror", lambda error: found.problems.append(str(error)))
        found.on("request", lambda request: found.requests.append(request.url))
        found.goto((out / "contact_sheet.html").as_uri())
        yield found
        browser.close()


def cards(page: Any) -> list[str]:
    return page.eval_on_selector_all(".card", "cards => cards.map(card => card.dataset.key)")  # type: ignore[no-any-return]


def choose(page: Any, **values: str) -> None:
    for name in ("show", "why", "sort", "split"):
        page.select_option(f"#{name}", values.get(name, {"show": "all", "sort": "name"}.get(name, "")))
    for name in ("search", "least", "most"):
        if page.is_enabled(f"#{name}"):
            page.fill(f"#{name}", values.get(name, ""))


def test_every_clip_moves_on_its_ground(page: Any) -> None:
    choose(page)
    assert cards(page) == [*(f"clip{n}" for n in range(6)), "copy", "still"]
    page.wait_for_function("[...document.querySelectorAll('.card img')].every(image => image.naturalWidth === 40)")
    assert page.evaluate("document.querySelector('.card img').src").startswith("data:image/webp;base64,")
    assert "ANMF" in page.evaluate("atob(document.querySelector('.card img').src.split(',')[1])")
    assert "conic-gradient" in page.evaluate("getComputedStyle(document.querySelector('.ground')).backgroundImage")
    page.select_option("#ground", "magenta")
    assert page.evaluate("getComputedStyle(document.querySelector('.ground')).backgroundColor") == "rgb(255, 0, 255)"
    page.select_option("#ground", "checker")


def test_filters_and_order(page: Any) -> None:
    choose(page, show="removed")
    assert cards(page) == ["copy", "still"]
    assert page.inner_text("#count") == "2 of 8 clips: 0 kept, 2 removed"
    choose(page, why="change")
    assert cards(page) == ["still"]
    choose(page, why="near-duplicate")
    assert cards(page) == ["copy"]
    assert "like a clip1, which is held out" in str(page.text_content(".why"))
    choose(page, split="val")
    assert cards(page) == ["clip1"]
    choose(page, search="CLIP5")
    assert cards(page) == ["clip5"]
    choose(page, sort="coverage")
    rising = cards(page)
    values = page.eval_on_selector_all(".value", "all => all.map(v => parseFloat(v.textContent.split(' ')[1]))")
    assert values == sorted(values)
    page.click("#direction")
    assert cards(page) == rising[::-1]
    page.click("#direction")
    choose(page, sort="coverage", least=str(values[-1] - 0.001))
    assert cards(page) == rising[-1:]
    choose(page, search="nothing of the kind")
    assert page.is_visible("#none")


def test_a_clip_shows_all_that_is_known_and_its_partner(page: Any) -> None:
    choose(page, search="copy")
    page.click(".card")
    assert page.locator("dialog figure").count() == 2
    text = page.inner_text("dialog")
    for part in ("a copy", "stays: set/clip1 (val)", "sharpness", "9", "24 frames per second"):
        assert part in text
    page.click("dialog button")
    assert not page.is_visible("dialog")


def test_captions_are_text_and_nothing_is_fetched(page: Any) -> None:
    choose(page, search="clip3")
    assert page.text_content(".name") == EVIL  # inner_text is empty until a card has been drawn
    assert page.title() == "Contact sheet"
    assert page.problems == []
    assert [url for url in page.requests if not url.startswith(("file:", "data:"))] == []
