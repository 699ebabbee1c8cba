"""The report and the A/B page, opened from disk in a real browser."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from evaluating.test_evaluate_config import compose
from PIL import Image

from wan_alpha.command import validated
from wan_alpha.data.media import write_ffv1
from wan_alpha.evaluating.config import EvaluateConfig
from wan_alpha.evaluating.run import evaluate
from wan_alpha.evaluation.preference import PreferenceError, count_votes, draw_pairs
from wan_alpha.pipeline.containers import write_vp9

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
HOSTILE = f'a <b>bold</b> square </script><script>document.title = "broken"</script> of a {"very" * 40}longword'


def square(alpha: int, inside: tuple[int, int, int], frames: int = 6) -> np.ndarray:
    """A square of 32 in a picture of 64."""
    video = np.zeros((frames, 64, 64, 4), np.uint8)
    video[:, 16:48, 16:48] = [*inside, alpha]
    return video


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pages")
    prompts = [
        {"id": "one", "text": HOSTILE, "category": "a", "expects": "opaque"},
        {"id": "two", "text": "透明背景", "category": "b"},
    ]
    (root / "prompts.json").write_text(json.dumps(prompts))
    for name, alpha in (("solid", 255), ("half", 128)):
        (root / name).mkdir()
        for prompt in ("one", "two"):
            write_ffv1(square(alpha, (0, 200, 0)), 8, root / name / f"{prompt}.mkv")
    out = root / "out"
    small = [
        "task=generation",
        f"prompts={root / 'prompts.json'}",
        f"videos.solid={root / 'solid'}",
        f"videos.half={root / 'half'}",
    ]
    evaluate(*validated(compose(*small, f"out={out}", "report.height=64"), EvaluateConfig))
    return out


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator:
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        profile = tmp_path_factory.mktemp("profile")
        context = playwright.chromium.launch_persistent_context(
            str(profile), executable_path=CHROMIUM, headless=True, args=FLAGS, accept_downloads=True
        )
        yield context
        context.close()


def opened(browser, path: Path):  # type: ignore[no-untyped-def]
    page = browser.new_page()
    page.problems, page.asked = [], []
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    page.on("request", lambda request: page.asked.append(request.url))
    page.goto(path.as_uri())
    page.wait_for_function("document.querySelector('canvas') !== null")
    drawn = "document.querySelector('canvas').getContext('2d').getImageData(32, 32, 1, 1).data[3] > 0"
    page.wait_for_function(drawn)
    return page


def pixel(page, canvas: int, x: int, y: int) -> list[int]:  # type: ignore[no-untyped-def]
    script = "([n, x, y]) => [...document.querySelectorAll('canvas')[n].getContext('2d').getImageData(x, y, 1, 1).data]"
    return page.evaluate(script, [canvas, x, y])[:3]


SHOWS = """colour => { const found = document.querySelector('canvas').getContext('2d').getImageData(4, 4, 1, 1).data;
    return colour.every((value, n) => Math.abs(value - found[n]) <= 12); }"""
"""Whether the first canvas has a colour outside of the square."""


def near(found: list[int], expected: tuple[int, int, int]) -> bool:
    return all(abs(a - b) <= 10 for a, b in zip(found, expected, strict=True))


def test_the_report_plays_all_systems_over_any_background(evaluation: Path, browser, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    page = opened(browser, evaluation / "report.html")
    page.click("button[data-colour=magenta]")
    assert near(pixel(page, 0, 32, 32), (0, 200, 0))
    assert near(pixel(page, 0, 4, 4), (255, 0, 255))
    assert near(pixel(page, 1, 32, 32), (127, 100, 127))  # half of the green, half of the ground
    page.select_option("select[aria-label=view]", "alpha")
    assert near(pixel(page, 0, 32, 32), (255, 255, 255))
    assert near(pixel(page, 1, 32, 32), (128, 128, 128))
    assert near(pixel(page, 1, 4, 4), (0, 0, 0))
    page.select_option("select[aria-label=view]", "composite")
    Image.new("RGB", (32, 32), (250, 120, 10)).save(tmp_path / "ground.png")
    page.set_input_files("#backdrop", str(tmp_path / "ground.png"))
    page.wait_for_function("stage.backdrop && stage.backdrop.naturalWidth")
    page.evaluate("stage.redraw()")
    assert near(pixel(page, 0, 4, 4), (250, 120, 10))
    moving = np.ones((12, 32, 32, 4), np.float32) * np.float32([0.2, 0.4, 0.8, 1])
    moving[6:] = [0.8, 0.4, 0.2, 1]
    write_vp9(moving, 6, tmp_path / "ground.webm", {})
    page.set_input_files("#backdrop", str(tmp_path / "ground.webm"))
    for colour in ((51, 102, 204), (204, 102, 51)):  # the user's video plays, too
        page.wait_for_function(SHOWS, arg=colour, timeout=10_000)
    page.wait_for_function("open.video.currentTime > 0")  # it plays by itself
    assert page.problems == []
    assert all(url.startswith(("file:", "data:", "blob:")) for url in page.asked)
    page.close()


def test_the_report_shows_figures_drills_down_and_survives_hostile_prompts(evaluation: Path, browser) -> None:  # type: ignore[no-untyped-def]
    page = opened(browser, evaluation / "report.html")
    assert page.title() == "Generated transparency, side by side"
    assert HOSTILE in page.inner_text("#prompt")
    summary = json.loads((evaluation / "summary.json").read_text())
    row = page.locator("#main-table tr", has_text="translucency error")
    assert "best" in (row.locator("td").nth(0).get_attribute("class") or "")  # solid does what is expected
    assert "best" not in (row.locator("td").nth(1).get_attribute("class") or "")
    mean = summary["systems"]["half"]["translucency_error"]["mean"]
    assert row.locator("td").nth(1).inner_text().startswith(f"{mean:.3f}")
    page.click(".list button[data-clip=two]")
    assert "透明背景" in page.inner_text("#prompt")
    assert page.locator("#clip-table tbody tr").count() >= 8
    page.select_option("select[aria-label=order]", index=1)
    assert page.locator("#plots svg").count() >= 8
    assert "translucent" in page.locator("#definitions").text_content()
    assert "python " in page.inner_text("#command")
    page.set_viewport_size({"width": 390, "height": 800})  # a telephone's
    page.click(".list button[data-clip=one]")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.problems == []
    page.close()


def test_votes_are_blind_exported_and_counted(evaluation: Path, browser, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    text = (evaluation / "ab.html").read_text()
    assert "solid" not in text.replace("1px solid", "").replace("3px solid", "").replace("2px solid", "")
    assert '"half"' not in text
    key = json.loads((evaluation / "ab_key.json").read_text())
    page = opened(browser, evaluation / "ab.html")
    page.fill("#rater", "Zoë")
    page.click("h1")
    page.keyboard.press("Control+1")  # the browser's own
    page.keyboard.press("Alt+ArrowLeft")
    page.focus("button[data-colour=black]")
    page.keyboard.press("Space")  # presses the button
    assert "0 answered" in page.inner_text("#count")
    assert page.evaluate("stage.colour") == "black"
    order = page.evaluate("data.pairs.map(pair => pair.id)")
    assert set(order) == set(key["pairs"])
    for number, pair in enumerate(order):  # always for the solid one, once by the keyboard
        side = "left" if key["pairs"][pair]["left"] == "solid" else "right"
        if number:
            page.click(f"button[data-choice={side}]")
        else:
            page.click("h1")
            page.keyboard.down({"left": "1", "right": "2"}[side])
            page.keyboard.down({"left": "1", "right": "2"}[side])  # held: one vote
            page.keyboard.up({"left": "1", "right": "2"}[side])
            assert "1 answered" in page.inner_text("#count")
    assert "2 answered" in page.inner_text("#count")
    with page.expect_download() as download:
        page.click("#export")
    votes = tmp_path / download.value.suggested_filename
    download.value.save_as(votes)
    assert "Zoë" in votes.name
    assert page.problems == []
    page.close()
    evaluate(*validated(compose("task=preference", f"out={evaluation}", f"votes={votes}"), EvaluateConfig))
    found = json.loads((evaluation / "preference.json").read_text())["preferences"][0]
    assert (found["a"], found["b"], found["wins"], found["losses"]) == ("half", "solid", 0, 2)
    assert found["share"] == 0


def test_preferences_by_hand(tmp_path: Path) -> None:
    pairs = draw_pairs(["x", "y"], [f"p{i}" for i in range(30)], seed=1)
    assert {p.left for p in pairs} == {"x", "y"}  # sides are drawn
    assert [p.prompt for p in pairs] != sorted(p.prompt for p in pairs)
    key = {"study": "s", "pairs": {p.id: vars(p) for p in pairs}}
    (tmp_path / "key.json").write_text(json.dumps(key))
    choices = []
    for n, p in enumerate(pairs):
        wanted = "tie" if n < 3 else "left" if (p.left == "x") == (n < 24) else "right"
        choices.append({"pair": p.id, "choice": wanted})
    votes = {"study": "s", "rater": "me", "votes": choices}
    (tmp_path / "v.json").write_text(json.dumps(votes))
    (found,) = count_votes(tmp_path / "key.json", [tmp_path / "v.json"])
    assert (found.wins, found.ties, found.losses) == (21, 3, 6)
    assert found.share == pytest.approx(22.5 / 30)
    assert 0.55 < found.low < found.share < found.high < 0.9
    assert found.p_value == pytest.approx(0.00592, rel=0.01)  # binomial, 21 of 27
    for broken, message in (
        ({"study": "other", "votes": []}, "votes of study other"),
        ({"study": "s", "votes": [{"pair": "?", "choice": "left"}]}, "not a vote of this study"),
        ({"study": "s", "votes": []}, "no votes in"),
        ({"study": "s"}, "not a vote of this study: None"),
        ({"study": "s", "votes": ["left"]}, "not a vote of this study: left"),
    ):
        (tmp_path / "b.json").write_text(json.dumps(broken))
        with pytest.raises(PreferenceError, match=message):
            count_votes(tmp_path / "key.json", [tmp_path / "b.json"])
    with pytest.raises(PreferenceError, match="no key of a study"):
        count_votes(tmp_path / "b.json", [tmp_path / "v.json"])
