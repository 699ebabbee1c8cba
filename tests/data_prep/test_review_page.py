"""The review page in a real Chromium: play, judge by keyboard, edit, lose the server, find everything again."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wan_alpha.data.annotations import ANNOTATIONS, read_annotations, read_entries
from wan_alpha.data.media import write_ffv1

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = Path("/usr/bin/chromium")
ROOT = Path(__file__).resolve().parents[2]
FLAGS = """--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
--disable-component-update --disable-sync"""
KEYS = ("cup", "fire", "glass", "smoke")
SHORT = "#field-short_en textarea"


class Server:
    """`python -m data_prep.review` as a process of its own."""

    def __init__(self, root: Path, *more: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.root, self.more, self.url = root, more, f"http://127.0.0.1:{self.port}/"
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "data_prep.review", f"root={self.root}", f"port={self.port}", *self.more]
        environment = os.environ | {"PYTHONPATH": f"{ROOT / 'src'}"}
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert self.process.stdout is not None
        self.said = ""
        while "Ctrl-C" not in self.said:
            line = self.process.stdout.readline()
            assert line, f"the server ended: {self.said}"
            self.said += line

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def get(self, path: str, **headers: str) -> tuple[int, bytes]:
        try:
            with urllib.request.urlopen(urllib.request.Request(self.url + path, headers=headers), timeout=30) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four clips with records: a red disc of alpha 1/2 in an opaque green ring, which grows."""
    root = tmp_path_factory.mktemp("outside") / "clips"
    root.mkdir()
    y, x = np.mgrid[:64, :64] - 31.5
    records = []
    for number, key in enumerate(KEYS):
        frames = np.zeros((12, 64, 64, 4), np.uint8)
        for t in range(12):
            radius = np.hypot(y, x)
            frames[t][radius < 24 + t / 2] = (0, 160, 0, 255)
            frames[t][radius < 16] = (255, 0, 0, 128)
        write_ffv1(frames, 24.0, root / f"{key}.mkv")
        records.append({
            "key": key, "media": f"{key}.mkv", "caption": key, "split": "train", "num_frames": 12, "fps": 24.0,
            "height": 64, "width": 64, "licence": "MIT", "motion": 0.01 * number,
        })  # fmt: skip
    (root / "records.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (root.parent / "secret.txt").write_text("secret")
    return root


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    server = Server(folder, "name=anna")
    yield server
    server.kill()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    if not CHROMIUM.exists():
        pytest.skip(f"{CHROMIUM} is not installed")
    with playwright.sync_playwright() as driver:
        context = driver.chromium.launch_persistent_context(
            str(tmp_path_factory.mktemp("profile")), executable_path=str(CHROMIUM), args=FLAGS.split(),
            viewport={"width": 1440, "height": 900},
        )  # fmt: skip
        context.set_default_timeout(60_000)
        yield context
        context.close()


def opened(browser: Any, server: Server, key: str) -> Any:
    """A tab on a clip, whose frames are there."""
    tab = browser.new_page()
    tab.goto(f"{server.url}?clip={key}")
    wait_for(tab, key)
    return tab


def wait_for(tab: Any, key: str) -> None:
    tab.wait_for_function(f"window.reviewPlayer?.spec?.key === '{key}' && window.reviewPlayer.sheet")
    tab.wait_for_function(f"document.querySelector('.clip-key')?.textContent === '{key}'")


def wait_until_said(root: Path, key: str, field: str, value: str) -> None:
    """Wait until it is on the disk."""
    for _ in range(600):
        said = read_annotations(root).get(key)
        if said and said.value(field) == value:
            return
        time.sleep(0.05)
    raise AssertionError(f"{key}.{field} never became {value!r}: {(root / ANNOTATIONS).read_text()}")


def ground(tab: Any, x: float, y: float) -> list[int]:
    """The colour that is on the screen at a place of the stage, in shares of its size."""
    import io

    from PIL import Image

    picture = Image.open(io.BytesIO(tab.locator(".stage").screenshot())).convert("RGB")
    return list(picture.getpixel((int(x * picture.width), int(y * picture.height))))


def test_a_clip_plays_over_any_background_and_steps_by_frame(browser: Any, server: Server) -> None:
    tab = opened(browser, server, "cup")
    frames = {tab.evaluate("window.reviewPlayer.frame") for _ in range(20) if tab.wait_for_timeout(40) is None}
    assert len(frames) > 3, "it does not play"
    tab.keyboard.press(" ")
    still = tab.evaluate("window.reviewPlayer.frame")
    tab.keyboard.press(".")
    assert tab.evaluate("window.reviewPlayer.frame") == (still + 1) % 12
    corner, middle = (0.02, 0.3), (0.5, 0.5)
    seen = {}
    for name in ("black", "white", "alpha"):
        tab.click(f".grounds button[data-ground={name}]")
        seen[name] = (ground(tab, *corner), ground(tab, *middle))
    assert seen["black"][0] == [0, 0, 0]
    assert seen["white"][0] == [255, 255, 255]
    np.testing.assert_allclose(seen["black"][1], [128, 0, 0], atol=3)  # alpha 1/2 on black
    np.testing.assert_allclose(seen["white"][1], [255, 127, 127], atol=3)
    np.testing.assert_allclose(seen["alpha"][1], [128] * 3, atol=3)
    tab.fill(".grounds .any", "#0000ff")
    assert ground(tab, *corner) == [0, 0, 255]
    np.testing.assert_allclose(ground(tab, *middle), [128, 0, 127], atol=3)
    tab.close()


def test_edits_are_on_the_disk_at_once_and_survive_the_server(browser: Any, server: Server, folder: Path) -> None:
    tab = opened(browser, server, "fire")
    tab.click(SHORT)
    tab.keyboard.type("A small fire arises.")  # its letters are keys of the page, which must not be heard here
    wait_until_said(folder, "fire", "short_en", "A small fire arises.")
    server.kill()  # nothing is asked of it any more
    entry = read_annotations(folder)["fire"].entries["short_en"]
    assert (entry.by, entry.kind) == ("anna", "person")
    assert read_annotations(folder)["fire"].value("verdict") == ""
    tab.close()
    server.start()
    tab = opened(browser, server, "fire")
    assert tab.input_value(SHORT) == "A small fire arises."
    assert "anna" in tab.inner_text("#history")
    tab.close()


def test_the_keyboard_judges_and_moves_on(browser: Any, server: Server, folder: Path) -> None:
    tab = opened(browser, server, "glass")
    tab.keyboard.press("r")
    wait_for(tab, "smoke")
    wait_until_said(folder, "glass", "verdict", "rejected")
    tab.keyboard.press("p")
    wait_for(tab, "glass")
    assert "rejected" in tab.inner_text("#heading")
    tab.keyboard.press("u")
    wait_until_said(folder, "glass", "verdict", "")
    tab.keyboard.press("a")
    wait_for(tab, "smoke")
    wait_until_said(folder, "glass", "verdict", "accepted")
    assert "1 of 4 decided" in tab.inner_text("#progress")
    assert "clip=smoke" in tab.url
    tab.close()


def test_what_was_typed_last_is_saved_when_moving_on(browser: Any, server: Server, folder: Path) -> None:
    tab = opened(browser, server, "cup")
    tab.click(SHORT)
    tab.keyboard.type("A cup, typed in haste")
    tab.keyboard.press("Escape")
    tab.keyboard.press("n")
    wait_for(tab, "fire")
    assert tab.input_value(SHORT) != "A cup, typed in haste"
    wait_until_said(folder, "cup", "short_en", "A cup, typed in haste")
    assert not any(e.key == "fire" and "cup" in e.value for e in read_entries(folder / ANNOTATIONS)[0])
    tab.close()


def test_two_tabs_do_not_undo_each_other(browser: Any, server: Server, folder: Path) -> None:
    one, two = opened(browser, server, "smoke"), opened(browser, server, "smoke")
    two.fill("#who input, #who textarea", "ben")
    one.bring_to_front()  # Chromium lets a tab in the background sleep
    one.fill(SHORT, "Smoke rises.")
    wait_until_said(folder, "smoke", "short_en", "Smoke rises.")
    two.bring_to_front()
    two.fill("#field-note textarea, #field-note input", "too grey?")  # this tab may still show the old caption
    wait_until_said(folder, "smoke", "note", "too grey?")
    said = read_annotations(folder)["smoke"].entries
    assert {name: (said[name].value, said[name].by) for name in ("short_en", "note")} == {
        "short_en": ("Smoke rises.", "anna"), "note": ("too grey?", "ben"),
    }  # fmt: skip
    two.wait_for_function(f"document.querySelector('{SHORT}').value === 'Smoke rises.'")  # news arrive by themselves
    one.close()
    two.close()


def test_only_the_folder_is_served_and_only_to_this_machine(server: Server, folder: Path) -> None:
    assert server.get("clips/cup")[1][:8] == b"\x89PNG\r\n\x1a\n"
    outside = folder.parent / "secret.txt"
    tricks = [f"clips/..%2f..%2f{outside.name}", "clips/%2e%2e/secret.txt", f"gradio_api/file={outside}"]
    tricks += [f"gradio_api/file={folder / 'records.jsonl'}/../../secret.txt", f"file={outside}", f"clips/{outside}"]
    tricks += [f"gradio_api/file={ROOT / 'pyproject.toml'}", "gradio_api/file=/etc/passwd"]
    for path in tricks:
        status, body = server.get(path)
        assert status in (400, 403, 404, 405), path
        assert b"secret" not in body.replace(b"secret.txt", b""), path
    assert server.get("clips/cup", Host="evil.example")[0] == 400
    assert "warning" not in server.said
    addresses = {a.split(":")[0] for a in _listening(server)}
    assert addresses == {"0100007F"}, "it listens beyond 127.0.0.1"  # as /proc writes it


def _listening(server: Server) -> list[str]:
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    port = f":{server.port:04X}"
    return [line.split()[1] for line in lines if line.split()[1].endswith(port) and line.split()[3] == "0A"]
