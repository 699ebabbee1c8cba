"""The demo: what it does without a page, and the page itself in a real Chromium."""

from __future__ import annotations

import tempfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from browser import needs_chromium, open_page
from file_readers import ffmpeg_pixels, needs_ffmpeg
from PIL import Image
from sample_video import disc

from wan_alpha.demo.__main__ import main
from wan_alpha.demo.studio import RequestError, Studio
from wan_alpha.pipeline.pipeline import AlphaWanPipeline
from wan_alpha.pipeline.video import FORMATS, OutputError

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


MODEL = {"base": "small", "vae_sha256": "1", "dit_sha256": "2"}


@pytest.fixture
def studio(pipe: AlphaWanPipeline, tmp_path: Path) -> Studio:
    return Studio(pipe, tmp_path / "demo", MODEL)


def test_a_video_is_made_once_and_remembered(studio: Studio, pipe: AlphaWanPipeline) -> None:
    seen: list[str] = []
    entry = studio.make(WISH, lambda share, what: seen.append(what))
    assert seen == ["step 1 of 2", "step 2 of 2"]
    again = studio.make(WISH, lambda share, what: seen.append(what))
    assert (again, len(seen)) == (entry, 2)
    other = studio.make(WISH | {"seed": 2})
    restarted = Studio(pipe, studio.folder, MODEL)
    assert [e.name for e in restarted.history()] == [other.name, entry.name]
    loaded = studio.load(entry)
    assert loaded.rgb.shape == (1, 3, 5, 32, 48)
    assert Image.open(entry.thumbnail).size == (48, 32)
    (studio.folder / f"{other.name}.json").write_text("{broken")
    entry.master.unlink()
    assert studio.history() == []


def test_another_model_makes_a_video_of_its_own(studio: Studio, pipe: AlphaWanPipeline) -> None:
    """In the same folder, for the same request; and files say which model made them."""
    entry = studio.make(WISH)
    other = Studio(pipe, studio.folder, MODEL | {"dit_sha256": "3"}).make(WISH)
    assert other.name != entry.name
    assert [e.about["dit_sha256"] for e in studio.history()] == ["3", "2"]
    made_with = studio.load(entry).metadata
    assert (made_with["base"], made_with["dit"]) == (pipe.adapters["base"], pipe.adapters["dit"])


def test_whatever_fails_is_said_on_the_page(caplog: pytest.LogCaptureFixture) -> None:
    gradio = pytest.importorskip("gradio")
    from wan_alpha.demo.page import _in_sentences

    cases = [
        (OutputError("out.mov cannot be written: No space left on device"), "No space left on device"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"), "not enough memory for this: take fewer"),
        (OSError(28, "No space left on device"), "could not be read or written: No space left"),
        (KeyError("x"), r"went wrong \(KeyError\); the terminal"),
    ]
    for error, message in cases:
        with pytest.raises(gradio.Error, match=message), _in_sentences():
            raise error
    assert "KeyError" in caplog.text


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
        ({"negative_prompt": "\ud800"}, "no text"),
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
    assert page._ground("/etc/passwd", "red", None) == "checkerboard"
    assert page._ground("green", "red", None) in page._preview(entry, "green", "red", None)  # a file has the same green
    assert page._hex("/etc/passwd") == "#3366cc"
    assert page._hex("rgba(255, 128.4, 0, 1)") == "#ff8000"


@contextmanager
def served(studio: Studio) -> Iterator[str]:
    """The page on a port of its own."""
    gradio = pytest.importorskip("gradio")
    from wan_alpha.demo.page import CSS, build

    form = studio.pipe.form
    page = build(studio, (form.frames, form.height, form.width), 2, 1.0, "a small model")
    _, url, _ = page.launch(
        server_name="127.0.0.1", prevent_thread_lock=True, quiet=True, css=CSS, ssr_mode=False,
        allowed_paths=[str(studio.folder)], theme=gradio.themes.Soft(font=["sans-serif"], font_mono=["monospace"]),
        footer_links=[],
    )  # fmt: skip
    try:
        yield url
    finally:
        page.close()


def test_another_user_who_had_a_page_first_is_in_nobodys_way(
    studio: Studio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = pytest.importorskip("wan_alpha.demo.page")
    (tmp_path / "gradio").touch()  # where Gradio would make its folder
    monkeypatch.setenv("GRADIO_TEMP_DIR", "")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    built = page.build(studio, (5, 32, 32), 2, 1.0, "a small model")
    folder = Path(built.GRADIO_CACHE)
    (folder / "a picture").touch()
    assert folder.stat().st_mode & 0o777 == 0o700


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


def downloaded(page: Any, kind: str, target: Path) -> Path:
    """The current video in one format, fetched as a person does it."""
    page.click("#format input")
    page.get_by_role("option", name=f"{kind}:").click()
    page.click("#prepare")
    link = page.locator(f"#download a[href$='.{kind}']").first
    link.wait_for()
    with page.expect_download() as waiting:
        link.click()
    waiting.value.save_as(target)
    return target


@needs_chromium
@needs_ffmpeg
def test_the_page_from_prompt_to_download(tmp_path: Path) -> None:
    """The shipped model: two videos, back to the first by the history, over the user's own video, and away with it."""
    pipe = AlphaWanPipeline.from_pretrained("tiny", "tiny")
    pipe.set_progress_bar_config(disable=True)
    studio = Studio(pipe, tmp_path / "demo", MODEL)
    plate = disc(frames=8, height=40, width=40).save(tmp_path / "plate.mp4", background="#ff8000")
    with served(studio) as url, open_page(1280, 1000) as page:
        page.goto(url)
        image = page.locator("#preview img")
        for seed, steps in ((7, 3), (8, 2)):
            page.fill("#prompt textarea", "a <b>parrot</b>")
            page.fill("#seed input", str(seed))
            page.fill("#steps input[type=number]", str(steps))
            page.press("#steps input[type=number]", "Tab")
            page.click("#go")
            page.wait_for_function(f"document.querySelector('#preview img')?.alt.endsWith('seed {seed}')")
        assert image.get_attribute("alt") == "a <b>parrot</b> · seed 8"
        page.wait_for_function("document.querySelectorAll('#history img').length == 2")
        page.locator("#history img").nth(1).click()
        page.wait_for_function("document.querySelector('#preview img').alt.endsWith('seed 7')")
        page.wait_for_function("document.querySelector('#preview img').naturalWidth == 64")
        # Over another background: the page changes, not the video.
        page.locator("#background").get_by_text("green").click()
        page.wait_for_function("document.querySelector('#preview .stage').style.background.includes('177')")
        webm = downloaded(page, "webm", tmp_path / "got.webm")
        page.locator("#background").get_by_text("your own").click()
        page.set_input_files("#own input[type=file]", str(plate))
        page.wait_for_function("document.querySelector('#preview video')?.readyState >= 2")
        mp4 = downloaded(page, "mp4", tmp_path / "got.mp4")
        # What cannot be done is said on the page.
        page.fill("#prompt textarea", " ")
        page.click("#go")
        page.get_by_text("the prompt is empty").wait_for()
        assert page.locator("#preview").get_by_text("Error").is_visible()
        assert not page.locator("#history").get_by_text("Error").is_visible()  # which would lie over the pictures
    newest, chosen = studio.history()
    assert [(e.about["seed"], e.about["steps"]) for e in (newest, chosen)] == [(8, 2), (7, 3)]
    found = ffmpeg_pixels(webm, "-c:v", "libvpx-vp9", pixel_format="rgba")
    over = ffmpeg_pixels(mp4, pixel_format="rgba")
    wanted = studio.load(chosen).pixels()
    assert np.abs(found[..., 3] - wanted[..., 3]).mean() < 0.03
    clear = wanted[..., 3] < 0.01
    assert clear.mean() > 0.1
    assert np.abs(over[..., :3][clear] - np.array([1, 0.5, 0])).mean() < 0.06


def test_only_its_own_folder_is_served(studio: Studio, tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    entry = studio.make(WISH)
    with served(studio) as page:
        with urllib.request.urlopen(f"{page}gradio_api/file={entry.preview}", timeout=60) as answer:
            assert answer.read() == entry.preview.read_bytes()
        for path in (secret, "/etc/passwd", f"{studio.folder}/../secret.txt"):
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(f"{page}gradio_api/file={path}", timeout=60)
            assert refused.value.code in (403, 404)
