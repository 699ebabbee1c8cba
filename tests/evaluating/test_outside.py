"""What evaluation exchanges with others: a judge's server, VBench, generate.py, Weights & Biases."""

from __future__ import annotations

import base64
import io
import json
import math
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest
from evaluating.test_generators import frames, run, write_system
from PIL import Image
from small_world import random_dora, random_pipeline, random_vae_adapters

from wan_alpha.data.media import read_frames
from wan_alpha.evaluation.judge import JudgeError, marks
from wan_alpha.evaluation.vbench import VBenchError


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    file = tmp_path / "prompts.json"
    file.write_text('{"001": "a disc", "002": "a soft disc"}')
    return file


@pytest.fixture
def server() -> Iterator[HTTPServer]:
    """A chat endpoint on this machine that looks at the pictures: the brighter they are, the better."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self.server.requests.append(request)  # type: ignore[attr-defined]
            urls = [part["image_url"]["url"] for part in request["messages"][0]["content"][1:]]
            pictures = [Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) for url in urls]
            mark = 1 + round(4 * float(np.mean([np.asarray(p) for p in pictures])) / 255)
            said = f'Here is my judgement: {{"alignment": {mark}, "naturalness": "good"}}'
            message = {"role": "assistant", "content": said}
            answer = {"id": "1", "object": "chat.completion", "created": 0, "model": "m",
                      "choices": [{"index": 0, "finish_reason": "stop", "message": message}]}  # fmt: skip
            body = json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    found = HTTPServer(("127.0.0.1", 0), Handler)
    found.requests = []  # type: ignore[attr-defined]
    thread = threading.Thread(target=found.serve_forever, daemon=True)
    thread.start()
    yield found
    found.shutdown()


def test_a_judge_is_shown_frames_on_a_checkerboard_and_its_nonsense_is_no_number(
    tmp_path: Path, prompts: Path, server: HTTPServer
) -> None:
    a = write_system(tmp_path / "a", frames(), frames(1))
    judge = [f"judge.endpoint=http://127.0.0.1:{server.server_port}/v1", "judge.model=m", "judge.frames=3"]
    summary = run(prompts, tmp_path / "out", f"videos.a={a}", *judge)
    row = summary["systems"]["a"]
    assert row["judge_alignment"]["mean"] == 5  # a small disc on a bright board
    assert (row["judge_naturalness"]["mean"], row["judge_naturalness"]["failed"]) == (None, 2)
    request = server.requests[0]  # type: ignore[attr-defined]
    assert (len(request["messages"][0]["content"]), request["temperature"]) == (4, 0)
    assert "a disc" in request["messages"][0]["content"][0]["text"]
    first = request["messages"][0]["content"][1]["image_url"]["url"].partition(",")[2]
    corner = np.asarray(Image.open(io.BytesIO(base64.b64decode(first))))[:5, :20, 0]
    assert set(np.unique(corner)) == {204, 255}
    run(prompts, tmp_path / "out", f"videos.a={a}", *judge)
    assert len(server.requests) == 2  # type: ignore[attr-defined]  # what was judged is not asked again


def test_a_judge_that_does_not_answer_is_named(tmp_path: Path, prompts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a = write_system(tmp_path / "a", frames(), frames(1))
    with pytest.raises(JudgeError, match=r"judge: http://127.0.0.1:9/v1 with model gpt-4o does not answer"):
        run(prompts, tmp_path / "out", f"videos.a={a}", "judge.endpoint=http://127.0.0.1:9/v1")


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ('{"alignment": 4, "naturalness": 2}', (4, 2)),
        ('```json\n{"alignment": 4.5, "naturalness": 2}\n```', (4.5, 2)),
        ('{"alignment": 7, "naturalness": true}', (math.nan, math.nan)),
        ("I cannot judge this.", (math.nan, math.nan)),
        ("{alignment: 3}", (math.nan, math.nan)),
    ],
)
def test_marks(answer: str, expected: tuple[float, float]) -> None:
    assert tuple(marks(answer).values()) == pytest.approx(expected, nan_ok=True)


def test_vbench_gets_its_input_and_its_results_come_back(tmp_path: Path, prompts: Path) -> None:
    a = write_system(tmp_path / "a", frames(), frames(1))
    folder = tmp_path / "vbench"
    arguments = [f"videos.a={a}", f"vbench={folder}"]
    run(prompts, tmp_path / "out", *arguments)
    assert json.loads((folder / "a" / "prompts.json").read_text())["a/videos/002.mp4"] == "a soft disc"
    assert "--mode custom_input" in (folder / "README.txt").read_text()
    film = read_frames(folder / "a" / "videos" / "001.mp4", count=6, alpha=False)
    assert film.shape == (6, 48, 48, 3)
    assert abs(int(film[0, 2, 2].mean()) - 128) <= 3  # nothing there: mid-grey
    results = folder / "a" / "results"
    results.mkdir()
    rows = [{"video_path": f"a/videos/{n}.mp4", "video_results": v} for n, v in (("001", 0.5), ("002", 0.7))]
    (results / "aesthetic_2026_eval_results.json").write_text(json.dumps({"aesthetic_quality": [0.6, rows]}))
    summary = run(prompts, tmp_path / "out", *arguments)
    assert summary["systems"]["a"]["vbench_aesthetic_quality"]["mean"] == pytest.approx(0.6)
    assert "VBench aesthetic quality ↑" in (tmp_path / "out" / "table.md").read_text()
    (results / "broken_eval_results.json").write_text('{"aesthetic_quality": 3}')
    with pytest.raises(VBenchError, match=r"broken_eval_results\.json: not a result of VBench"):
        run(prompts, tmp_path / "out", *arguments)


def test_a_generator_is_run_and_measured_beside_a_folder(tmp_path: Path, prompts: Path) -> None:
    base, adapters = random_pipeline(tmp_path / "base"), tmp_path / "adapters"
    random_vae_adapters(base, adapters)
    random_dora(base, adapters / "t2v.safetensors")
    a = write_system(tmp_path / "a", frames(length=5, side=32), frames(1, length=5, side=32))
    sampling = ["sampling.num_frames=5", "sampling.height=32", "sampling.width=32", "sampling.num_inference_steps=1"]
    summary = run(
        prompts, tmp_path / "out", "base=path", f"base.path={base}", f"generators.mine={adapters}", *sampling,
        f"videos.a={a}", "align.how=resample", "device=cpu",
    )  # fmt: skip
    assert list(summary["systems"]) == ["a", "mine"]
    assert summary["clips"] == ["001", "002"]
    made = sorted((tmp_path / "out" / "videos" / "mine").glob("*.mkv"))
    assert len(made) == 2


def test_tables_and_videos_reach_weights_and_biases(
    tmp_path: Path, prompts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_SILENT", "true")
    a = write_system(tmp_path / "a", frames(), frames(1))
    run(prompts, tmp_path / "out", f"videos.a={a}", "logger=wandb", "report.players=true", "report.height=48")
    logged = list((tmp_path / "out" / "wandb").glob("offline-run-*/files/media/**/*"))
    assert sum(f.suffix == ".webm" for f in logged) == 2
    tables = {f.name.split("_")[0]: json.loads(f.read_text()) for f in logged if f.suffix == ".json"}
    assert tables["means"]["columns"][:2] == ["system", "temporal_flickering"]
    assert [row[:2] for row in tables["clips"]["data"]] == [["a", "001"], ["a", "002"]]
