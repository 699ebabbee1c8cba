"""The demo: what it does without a page, and the page itself in a real Chromium."""

from __future__ import annotations

import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import needs_chromium, open_page
from file_readers import ffmpeg_pixels, needs_ffmpeg
from PIL import Image

from wan_alpha.demo.__main__ import main
from wan_alpha.demo.studio import RequestError, Studio
from wan_alpha.pipeline.pipeline import AlphaWanPipeline
from wan_alpha.pipeline.video import FORMATS

WISH = {
    "prompt": "a disc",
    "negative_prompt": "",
    "seed": 1,
    "steps": 2,
    "guidance": 1.0,
    "frames": 5,
    "height": 32,
    "width": 48,
}


@pytest.fixture
def studio(pipe: AlphaWanPipeline, tmp_path: Path) -> Studio:
    return Studio(pipe, tmp_path / "demo")


def test_a_video_is_made_once_and_remembered(studio: Studio, pipe: AlphaWanPipeline) -> None:
    seen: list[str] = []
    entry = studio.make(WISH, lambda share, what: seen.append(what))
    assert seen == ["step 1 of 2", "step 2 of 2"]
    again = studio.make(WISH, lambda share, what: seen.append(what))
    assert (again, len(seen)) == (entry, 2)
    other = studio.make(WISH | {"seed": 2})
    assert [e.name for e in Studio(pipe, studio.folder).history()] == [other.name, entry.name]  # survives a restart
    loaded = studio.load(entry)
    assert loaded.rgb.shape == (1, 3, 5, 32, 48)
    assert Image.open(entry.thumbnail).size == (48, 32)
    (studio.folder / f"{other.name}.json").write_text("{broken")
    entry.master.unlink()
    assert studio.history() == []


@pytest.mark.parametrize("kind", list(FORMATS))
def test_downloads_in_each_format(studio: Studio, kind: str) -> None:
    entry = studio.make(WISH)
    file = studio.export(entry.name, kind, "#00ff00")
    assert file.resolve().is_relative_to(studio.folder)
    if kind in ("png", "exr"):
        assert sorted(zipfile.ZipFile(file).namelist())[0] == f"00000.{kind}"
    else:
        assert file.suffix == FORMATS[kind].suffix
        assert file.stat().st_size > 100
    with pytest.raises(RequestError, match="no longer there"):
        studio.export("../../etc/passwd", kind)
    with pytest.raises(RequestError, match="no such format"):
        studio.export(entry.name, "exe")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt": " "}, "prompt is empty"),
        ({"prompt": "x" * 1001}, "at most 1000"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": float("nan")}, "seed is no number"),
        ({"steps": 0}, "steps is 0"),
        ({"steps": None}, "steps is no number"),
        ({"guidance": 99}, "guidance must be"),
        ({"height": 33}, "multiples of 16"),
        ({"frames": 10_000, "height": 1600, "width": 1600}, "fewer or smaller"),
    ],
)
def test_requests_out_of_range_are_refused(studio: Studio, change: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        studio.make(WISH | change)
    assert list(studio.folder.iterdir()) == []


def test_hostile_prompts_stay_in_the_folder(studio: Studio) -> None:
    entry = studio.make(WISH | {"prompt": "../../<script>alert(1)</script>"})
    assert entry.master.resolve().parent == studio.folder
    page = pytest.importorskip("wan_alpha.demo.page")
    shown = page._preview(entry, "colour", "red;} </style><script>", None)
    assert "<script" not in shown
    assert page._hex("/etc/passwd") == "#3366cc"
    assert page._hex("rgba(255, 128.4, 0, 1)") == "#ff8000"


@pytest.fixture
def served(studio: Studio) -> Iterator[str]:
    """The page on a port of its own."""
    gradio = pytest.importorskip("gradio")
    from wan_alpha.demo.page import CSS, build

    page = build(studio, (5, 32, 48), 2, 1.0, "a small random model")
    _, url, _ = page.launch(
        server_name="127.0.0.1", prevent_thread_lock=True, quiet=True, css=CSS, ssr_mode=False,
        allowed_paths=[str(studio.folder)], theme=gradio.themes.Soft(font=["sans-serif"], font_mono=["monospace"]),
        footer_links=[],
    )  # fmt: skip
    yield url
    page.close()


def test_the_command_serves_this_machine_only_with_a_bounded_queue(
    pipe: AlphaWanPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gradio = pytest.importorskip("gradio")
    from wan_alpha.demo.page import QUEUE

    launched: list[tuple[Any, dict[str, Any]]] = []
    monkeypatch.setattr(AlphaWanPipeline, "from_pretrained", lambda *paths, **options: pipe)
    monkeypatch.setattr(gradio.Blocks, "launch", lambda page, **options: launched.append((page, options)))
    monkeypatch.setattr(gradio.Blocks, "block_thread", lambda page: None)
    assert main(["--out", str(tmp_path / "demo")]) == 0
    ((page, options),) = launched
    assert (options["server_name"], options["server_port"], options["share"]) == ("127.0.0.1", 7860, False)
    assert options["allowed_paths"] == [str(tmp_path / "demo")]
    assert page._queue.max_size == QUEUE <= 16
    assert "http://127.0.0.1:7860" in capsys.readouterr().out
    monkeypatch.undo()
    assert main(["--base", str(tmp_path / "nowhere"), "--out", str(tmp_path / "demo")]) == 1
    assert "error: base" in capsys.readouterr().err


@needs_chromium
@needs_ffmpeg
def test_the_page_from_prompt_to_download(served: str, studio: Studio, tmp_path: Path) -> None:
    with open_page(1280, 1000) as page:
        page.goto(served)
        page.fill("#prompt textarea", "a <b>disc</b>")
        page.click("#go")
        image = page.locator("#preview img")
        image.wait_for()
        page.wait_for_function("document.querySelector('#preview img').naturalWidth == 48")
        assert image.get_attribute("alt") == "a <b>disc</b> · seed 0"
        page.locator("#history img").first.wait_for()
        # Over another background: the page changes, not the video.
        page.locator("#background").get_by_text("green").click()
        page.wait_for_function("document.querySelector('#preview .stage').style.background.includes('177')")
        page.click("#prepare")
        link = page.locator("#download a").first
        link.wait_for()
        with page.expect_download() as waiting:
            link.click()
        waiting.value.save_as(tmp_path / "got.webm")
        # What cannot be done is said on the page.
        page.fill("#prompt textarea", " ")
        page.click("#go")
        page.get_by_text("the prompt is empty").wait_for()
    (entry,) = studio.history()
    found = ffmpeg_pixels(tmp_path / "got.webm", "-c:v", "libvpx-vp9", pixel_format="rgba")
    assert np.abs(found[..., 3] - studio.load(entry).pixels()[..., 3]).mean() < 0.03


def test_only_its_own_folder_is_served(served: str, studio: Studio, tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    entry = studio.make(WISH)
    with urllib.request.urlopen(f"{served}gradio_api/file={entry.preview}", timeout=60) as answer:
        assert answer.read() == entry.preview.read_bytes()
    for path in (secret, "/etc/passwd", f"{studio.folder}/../secret.txt"):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"{served}gradio_api/file={path}", timeout=60)
        assert refused.value.code in (403, 404)
