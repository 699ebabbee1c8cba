"""Endpoints that talk nonsense, fail, are slow or want a key."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from caption_endpoints import GOOD, LABELS, Answer, failures, make_clips, misbehaving, options, reply, says

from data_prep.caption import caption, main
from data_prep.captioner import Counts
from data_prep.endpoint import Endpoint
from wan_alpha.data.annotations import read_annotations
from wan_alpha.data.errors import DataError


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


def test_a_folder_that_cannot_be_written_is_said_in_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = make_clips(tmp_path / "clips", 2)
    (root / ".cache").touch()  # where a folder should be
    with misbehaving(lambda _: says(GOOD)) as (url, _), pytest.raises(SystemExit):
        main([f"root={root}", f"endpoint={url}", "model=m", "fields=short_en"])
    said = "Not a directory; give files that you may read and a place where you may write"
    assert said in capsys.readouterr().err


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


def test_requests_are_bounded_in_number(tmp_path: Path) -> None:
    at_once, most, room = 0, 0, threading.Condition()

    def slow(request: BaseHTTPRequestHandler) -> None:
        nonlocal at_once, most
        with room:
            at_once += 1
            most = max(most, at_once)
            room.notify_all()
            room.wait_for(lambda: most >= 3, timeout=100)
        time.sleep(0.2)  # in which a fourth would come
        with room:  # before the answer, upon which the next one may come at once
            at_once -= 1
        says(GOOD)(request)

    with misbehaving(lambda _: slow) as (url, _):
        caption(options(make_clips(tmp_path / "clips", 6), url, fields="short_en", concurrency=3))
    assert most == 3


def test_requests_are_bounded_in_rate() -> None:
    async def six(endpoint: Endpoint) -> float:
        start = time.monotonic()
        await asyncio.gather(*(endpoint.ask([], "What?", 9, 0.0) for _ in range(6)))
        await endpoint.close()
        return time.monotonic() - start

    with misbehaving(lambda _: says(GOOD)) as (url, requests):
        taken = asyncio.run(six(Endpoint(url, "m", None, 100.0, 0, per_minute=600)))
    assert len(requests) == 6
    assert taken > 0.98 * 5 * 0.1  # six requests, five gaps of 60 s / 600
