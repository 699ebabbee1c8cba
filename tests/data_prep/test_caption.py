"""Captions and labels from a real model behind a real endpoint; what is asked, and what is asked only once."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from caption_endpoints import ANSWERS, GOOD, LABELS, failures, make_clips, misbehaving, options, says
from tiny_vlm import make_model, serve

from data_prep import viewing
from data_prep.caption import FAILURES, caption, main
from data_prep.captioner import CACHE, Counts, labels_from
from data_prep.journal import Journal, entry
from data_prep.measures.names import MEASURES
from data_prep.questions import question
from wan_alpha.data.annotations import read_annotations, read_entries
from wan_alpha.data.errors import DataError
from wan_alpha.data.folders import FolderSource

ROOT = Path(__file__).resolve().parents[2]


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


def test_clips_that_were_removed_are_not_asked_about(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_clips(tmp_path / "clips", 4)
    removed = [{"key": f"disc{number}", "keep": number == 0, "reasons": ["haze 1 > 0.01"]} for number in range(3)]
    (root / "curation.jsonl").write_text("".join(json.dumps(verdict) + "\n" for verdict in removed))
    said = [("disc2", "accepted"), ("disc3", "rejected")]
    Journal(root).append([entry("anna", "person", key, "verdict", value) for key, value in said])
    with misbehaving(lambda _: says(GOOD)) as (url, requests):
        assert caption(options(root, url, fields="short_en")) == Counts(asked=2)
        assert len(requests) == 2
        assert {key for key, about in read_annotations(root).items() if about.value("short_en")} == {"disc0", "disc2"}
        told = capsys.readouterr().err
        assert "skipped: disc1: curation: haze 1 > 0.01" in told
        assert "not asked about, as curation or a reviewer removed them: 2; removed=true" in told
        assert caption(options(root, url, fields="short_en", removed=True)) == Counts(asked=1, cached=2)
        assert "removed them: 1\n" in capsys.readouterr().err, "what a person rejected stays out"


def test_unknown_fields_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="fields=short_fr: expected some of short_en, "):
        caption(options(make_clips(tmp_path / "clips", 1), "http://127.0.0.1:1/v1", fields="short_fr"))
