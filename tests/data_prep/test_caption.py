"""Captions and labels from a real model behind a real endpoint, and from endpoints that misbehave."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny_vlm import make_model, serve

from data_prep import viewing
from data_prep.caption import FAILURES, Options, caption, main
from data_prep.captioner import CACHE, Counts, labels_from
from data_prep.journal import Journal, entry
from data_prep.measures.names import MEASURES
from data_prep.questions import question
from wan_alpha.data.annotations import read_annotations, read_entries
from wan_alpha.data.errors import DataError
from wan_alpha.data.folders import FolderSource
from wan_alpha.data.media import write_ffv1

ROOT = Path(__file__).resolve().parents[2]
ANSWERS = {
    "short_en": "A red disc grows slowly while its soft edge glows.",
    "short_zh": "一个红色的圆盘慢慢变大,边缘柔和发光。",
    "labels": '```json\n{"style": "cartoon", "shot": "close", "speed": "normal", "quality": "clear"}\n```',
}
LABELS = {"style": "cartoon", "shot": "close", "speed": "normal", "quality": "clear"}


def make_clips(root: Path, count: int = 3) -> Path:
    """Red discs that grow, each a little differently."""
    root.mkdir(exist_ok=True)
    y, x = np.mgrid[:32, :32] - 15.5
    for number in range(count):
        frames = np.zeros((6, 32, 32, 4), np.uint8)
        for t in range(6):
            frames[t, ..., 3] = np.clip((6 + t + number / 2 - np.hypot(y, x)) * 60, 0, 255)
            frames[t][frames[t, ..., 3] > 0, :3] = 230, 20, 30
        write_ffv1(frames, 24.0, root / f"disc{number}.mkv")
    return root


def options(root: Path, url: str, **more: Any) -> Options:
    quick = {"fields": "short_en,short_zh,labels", "frames": 2, "side": 28, "temperature": 0.0, "concurrency": 2}
    return Options(root, url, more.pop("model", "some-model"), **{**quick, "retries": 1, "attempts": 1, **more})


def failures(root: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in (root / FAILURES).read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A tiny Qwen2.5-VL that learnt the answers to the very questions that are asked here, and one left random."""
    folder = tmp_path_factory.mktemp("models")
    source = FolderSource(make_clips(folder / "clips"), "all")
    colours = {viewing.pictures(source, index, 2, 28)[1] for index in range(3)}
    assert len(colours) == 1
    asked = {question(name, 2, colours.copy().pop(), "", list(LABELS)).prompt: text for name, text in ANSWERS.items()}
    return make_model(folder / "taught", asked, True), make_model(folder / "random", asked, False)


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serve(tmp_path_factory.mktemp("serve")) as url:
        yield url


def test_a_real_model_captions_and_labels_and_is_asked_once(
    models: tuple[Path, Path], endpoint: str, tmp_path: Path
) -> None:
    root = make_clips(tmp_path / "clips")
    chosen = options(root, endpoint, model=str(models[0]))
    Journal(root).append([entry("anna", "person", "disc1", "short_en", "Anna's own words.")])
    assert caption(chosen) == Counts(asked=8, theirs=1)
    said = read_annotations(root)
    for key in ("disc0", "disc2"):
        values = {name: item.value for name, item in said[key].entries.items()}
        assert values == LABELS | {name: ANSWERS[name] for name in ("short_en", "short_zh")}
    assert said["disc1"].value("short_en") == "Anna's own words."
    assert said["disc0"].entries["shot"].by == f"model {models[0]}"
    clip = next(clip for clip in FolderSource(root, "all").clips if clip.key == "disc0")
    assert clip.meta["captions"]["short_zh"] == ANSWERS["short_zh"]
    assert clip.meta["labels"] == LABELS

    before = read_entries(root / "annotations.jsonl")
    assert caption(chosen) == Counts(cached=8, theirs=1)
    assert read_entries(root / "annotations.jsonl") == before, "what is known was written again"
    (root / "annotations.jsonl").unlink()  # the cache is enough
    assert caption(chosen) == Counts(cached=8, asked=1)
    (root / "disc0.mkv").write_bytes((root / "disc2.mkv").read_bytes())  # other content under the same name
    assert caption(options(root, endpoint, model=str(models[0]), fields="short_en")).cached == 3


def test_nonsense_of_a_real_model_is_a_failure_and_is_not_stored(
    models: tuple[Path, Path], endpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = make_clips(tmp_path / "clips", 1)
    arguments = ["fields=labels,short_zh", "frames=2", "side=28", "attempts=2", "temperature=0.2"]
    with pytest.raises(SystemExit) as ended:
        main([f"root={root}", f"endpoint={endpoint}", f"model={models[1]}", *arguments])
    assert ended.value.code == 1
    found = failures(root)
    assert [(item["key"], item["field"], item["kind"]) for item in found] == [
        ("disc0", "labels", "answer"), ("disc0", "short_zh", "answer"),
    ]  # fmt: skip
    assert all("(asked 2 times)" in item["reason"] for item in found)
    assert not read_annotations(root)
    assert not (root / CACHE).exists()
    assert f"2 questions have no answer: {root / FAILURES} says why" in capsys.readouterr().err


Answer = Callable[[BaseHTTPRequestHandler], None]


def reply(text: str | bytes, status: int = 200, **headers: str) -> Answer:
    """An HTTP answer with this body."""
    body = text if isinstance(text, bytes) else text.encode()

    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(status)
        for name, value in ({"Content-Type": "application/json"} | headers).items():
            request.send_header(name.replace("_", "-"), value)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)

    return answer


def says(content: str | None, reason: str = "stop") -> Answer:
    """A chat completion."""
    message = {"role": "assistant", "content": content}
    choice = {"index": 0, "message": message, "finish_reason": reason}
    return reply(json.dumps({"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}))


@contextmanager
def misbehaving(answers: Callable[[int], Answer]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """An HTTP server whose n-th request gets `answers(n)`; yields its URL and the requests it got."""
    requests: list[dict[str, Any]] = []
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                requests.append({"body": body, "key": self.headers["Authorization"], "time": time.monotonic()})
                answer = answers(len(requests) - 1)
            answer(self)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1", requests
    finally:
        server.shutdown()
        server.server_close()


GOOD = "A red disc grows on and on."


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (reply("<html>It works!</html>", Content_Type="text/html"), "no chat completion: <html>It works!"),
        (reply('{"error": "out of memory"}'), "no chat completion"),
        (reply("{not json"), "cannot be read"),
        (reply(b'{"choices": "\xff\xfe"}'), "cannot be read"),
        (reply('{"error": "image too large"}', 400), "image too large"),
        (says(""), "the answer is empty"),
        (says(None), "the answer is empty"),
        (says("I'm sorry, I can't help with that."), "the model refused"),
        (says("一个红色的圆盘。"), "expected English"),
        (says("red disc " * 12), "runs in circles"),
        (says("A red disc " + "word " * 90), "93 words, expected 3 to 60"),
        (says('{"caption": "A red disc grows."}'), "the answer is JSON"),
        (says("A red disc on a grey checkerboard grows."), "what the clip was shown on"),
        (says("A red <|im_start|> disc grows on."), "markup"),
        (says("A red disc that", "length"), "cut off after 128 tokens"),
    ],
)  # fmt: skip
def test_nonsense_is_recorded_with_its_reason_and_nothing_is_stored(
    answer: Answer, reason: str, tmp_path: Path
) -> None:
    root = make_clips(tmp_path / "clips", 1)
    with misbehaving(lambda _: answer) as (url, _):
        assert caption(options(root, url, fields="short_en")).failed == 1
    (found,) = failures(root)
    assert reason in found["reason"]
    assert found["kind"] == "answer"
    assert not read_annotations(root)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ('{"style": "cartoon", "shot": "close", "speed": "normal"}', "quality=None: expected one of clear, "),
        (json.dumps(LABELS | {"style": "dragon"}), "style='dragon': expected one of realistic, effects, "),
        (json.dumps(LABELS | {"shot": ["close"]}), "shot=['close']: expected one of"),
        ('["cartoon"]', "expected a JSON object, got a list"),
        ("cartoon, close", "the answer is not JSON"),
    ],
)
def test_labels_outside_the_vocabulary_are_refused(answer: str, reason: str, tmp_path: Path) -> None:
    root = make_clips(tmp_path / "clips", 1)
    with misbehaving(lambda _: says(answer)) as (url, _):
        assert caption(options(root, url, fields="labels")).failed == 1
    assert reason in failures(root)[0]["reason"]
    assert not read_annotations(root)


def test_trouble_that_passes_is_waited_for(tmp_path: Path) -> None:
    root = make_clips(tmp_path / "clips", 1)
    answers = [reply("{}", 503), reply("{}", 429, Retry_After="0.1"), says("oops"), says(GOOD)]
    with misbehaving(lambda n: answers[n]) as (url, requests):
        assert caption(options(root, url, fields="short_en", retries=3, attempts=2)) == Counts(asked=1)
    assert len(requests) == 4
    assert read_annotations(root)["disc0"].value("short_en") == GOOD
    assert [request["body"]["temperature"] for request in requests] == [0, 0, 0, 0.4]
    kinds = [part["type"] for part in requests[0]["body"]["messages"][0]["content"]]
    assert kinds == ["image_url", "image_url", "text"]


def test_an_endpoint_that_is_down_ends_the_run_and_says_so(tmp_path: Path) -> None:
    root = make_clips(tmp_path / "clips")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}/v1"
    with pytest.raises(DataError, match=r"cannot be reached .*is the server running there.*\n0 questions were"):
        caption(options(root, url, retries=0, patience=3))
    assert {item["kind"] for item in failures(root)} == {"down"}
    # It dies in the middle: what was answered is kept, and only the rest is asked for once it is back.
    with (
        misbehaving(lambda n: says(GOOD) if n < 2 else reply("{}", 500)) as (url, _),
        pytest.raises(DataError, match="2 questions were answered before; the same command continues"),
    ):
        caption(options(root, url, fields="short_en", retries=0, patience=1, concurrency=1))
    with misbehaving(lambda _: says(GOOD)) as (url, requests):
        counts = caption(options(root, url, fields="short_en", retries=0))
    assert counts == Counts(asked=1, cached=2)
    assert len(requests) == 1


def test_an_answer_that_never_comes_is_a_time_out(tmp_path: Path) -> None:
    root = make_clips(tmp_path / "clips", 1)
    with (
        misbehaving(lambda _: lambda request: time.sleep(1.5)) as (url, _),
        pytest.raises(DataError, match="no answer in time; raise timeout=, or lower concurrency="),
    ):
        caption(options(root, url, fields="short_en", timeout=0.3, retries=0, patience=1))


def test_the_key_comes_from_the_named_variable_and_is_written_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root, key = make_clips(tmp_path / "clips", 1), "sk-test-51d7e0b2c4f94"
    monkeypatch.setenv("SOME_KEY", key)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-somebody-else")
    chosen = {"fields": "short_en", "api_key_env": "SOME_KEY", "retries": 0}
    with misbehaving(lambda _: says(GOOD)) as (url, requests):
        caption(options(root, url, **chosen))
        caption(options(root, url, fields="short_en", model="other"))
    assert [request["key"] for request in requests] == [f"Bearer {key}", "Bearer none"]
    for status in (400, 401, 404):
        with misbehaving(lambda _, status=status: reply(json.dumps({"error": {"message": f"bad {key}"}}), status)) as (
            url, _,
        ):  # fmt: skip
            if status == 400:
                assert caption(options(root, url, model="m400", **chosen)).failed == 1
                continue
            with pytest.raises(
                DataError, match=r"not accepted \(401\)" if status == 401 else "no model 'm404'"
            ) as caught:
                caption(options(root, url, model=f"m{status}", **chosen))
            assert key not in str(caught.value)
    printed = capsys.readouterr()
    assert key not in printed.out + printed.err
    assert not any(key.encode() in file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
    monkeypatch.delenv("SOME_KEY")
    with pytest.raises(DataError, match="api_key_env=SOME_KEY: the environment has no such variable"):
        caption(options(root, "http://127.0.0.1:1/v1", **chosen))


def test_requests_are_bounded_in_number_and_rate(tmp_path: Path) -> None:
    root = make_clips(tmp_path / "clips", 6)
    at_once, most, lock = 0, 0, threading.Lock()

    def slow(request: BaseHTTPRequestHandler) -> None:
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        time.sleep(0.15)
        says(GOOD)(request)
        with lock:
            at_once -= 1

    with misbehaving(lambda _: slow) as (url, requests):
        caption(options(root, url, fields="short_en", concurrency=3))
        assert most in (2, 3)
        first = len(requests)
        caption(options(root, url, fields="short_en", concurrency=6, model="other", per_minute=600))
    times = sorted(request["time"] for request in requests[first:])
    assert times[-1] - times[0] > 0.9 * 5 * 0.1  # six requests, five gaps of 60 s / 600


def test_a_killed_run_continues_and_asks_nothing_twice(tmp_path: Path) -> None:
    root = make_clips(tmp_path / "clips", 8)

    def slow(request: BaseHTTPRequestHandler) -> None:
        time.sleep(0.2)
        says(GOOD)(request)

    with misbehaving(lambda _: slow) as (url, requests):
        command = [sys.executable, "-m", "data_prep.caption", f"root={root}", f"endpoint={url}", "model=some-model"]
        command += ["fields=short_en", "concurrency=1", "frames=2", "side=28", "temperature=0"]
        process = subprocess.Popen(command, cwd=ROOT, env={"PYTHONPATH": str(ROOT / "src"), "PATH": "/usr/bin:/bin"})
        while len(read_annotations(root)) < 3:
            assert process.poll() is None
            time.sleep(0.02)
        process.kill()
        process.wait()
        answered = len(read_annotations(root))
        assert caption(options(root, url, fields="short_en", concurrency=1)).cached >= answered
    assert len(read_annotations(root)) == 8
    assert len(requests) <= 8 + 1  # at most the one that was on its way is asked again


def test_labels_that_can_be_measured_are_not_asked_for(tmp_path: Path) -> None:
    root = make_clips(tmp_path / "clips", 1)
    record = {"key": "disc0", "media": "disc0.mkv", "caption": "", "split": "train", "num_frames": 6, "fps": 24.0}
    record |= {"height": 32, "width": 32, "flow": 5.0, "sharpness": 0.9, "greyness": 0.1}
    (root / "records.jsonl").write_text(json.dumps(record) + "\n")
    with misbehaving(lambda _: says('{"style": "cartoon", "shot": "wide"}')) as (url, requests):
        assert caption(options(root, url, fields="labels")) == Counts(asked=1, measured=2)
    said = read_annotations(root)["disc0"].entries
    assert {name: (item.value, item.kind) for name, item in said.items()} == {
        "style": ("cartoon", "model"), "shot": ("wide", "model"),
        "speed": ("fast", "measure"), "quality": ("clear", "measure"),
    }  # fmt: skip
    assert '"speed"' not in json.dumps(requests[0]["body"]["messages"][0]["content"][-1])
    assert labels_from({"motion": 1.0}) == {}
    # What data_prep.curate measured, beside the folder, counts more than the record.
    table = Path(f"{root}-curation") / "curation.parquet"
    table.parent.mkdir()
    columns = {"key": "disc0"} | dict.fromkeys(MEASURES, 0.0) | {"flow": 0.01, "sharpness": 0.9}
    pq.write_table(pa.Table.from_pylist([columns]), table)
    with misbehaving(lambda _: says('{"style": "cartoon", "shot": "wide"}')) as (url, _):
        assert caption(options(root, url, fields="labels")) == Counts(cached=1, measured=1)
    assert read_annotations(root)["disc0"].value("speed") == "slow"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"fields": "short_fr"}, "fields=short_fr: expected some of short_en, "),
        ({"concurrency": 0}, "expected at least 1"),
        ({"per_minute": 0}, "per_minute=0: expected more than 0, or none"),
    ],
)
def test_options_are_checked(wrong: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        caption(options(make_clips(tmp_path / "clips", 1), "http://127.0.0.1:1/v1", **wrong))
