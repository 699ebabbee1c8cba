"""The whole way from a published set to training, in one go, as docs/data/README.md tells it: Fluent emoji.

    PYTHONPATH=tests/data_prep python -m benchmarks.data_chain NPM_DIR WORK_DIR [KEY=VALUE for ingest ...]

ingest, curate, caption (by a stand-in), review (a caption typed in Chromium), shard, verify, train for
five steps.  What each step printed last, its seconds and processor seconds: benchmarks/results/data_chain.json.  It
ends with the first step that fails.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

from wan_alpha.data.annotations import read_annotations

RESULT = Path(__file__).parent / "results" / "data_chain.json"
CHROMIUM, FLAGS = "/usr/bin/chromium", ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
TYPED = "It turns on nothing at all."


def run(name: str, *command: str) -> dict[str, Any]:
    """One step to its end: what it printed, and its time with that of its workers."""
    begin = time.monotonic()
    process = subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    printed = [line.strip() for line in process.stdout if line.strip() and not set(line) & set("━│└")]
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{name} failed: {' '.join(command)}")
    seconds = time.monotonic() - begin
    figures = {"seconds": round(seconds, 1), "processor seconds": round(usage.ru_utime + usage.ru_stime, 1)}
    print(f"{name}: {figures}: {printed[-1]}", flush=True)
    return {"step": name, "printed": printed[-4:]} | figures


@contextmanager
def server(until: str, *command: str) -> Iterator[str]:
    """A process that serves, from the line that holds `until` to the end of the block."""
    process = subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        assert process.stdout is not None
        yield next(line for line in process.stdout if until in line)
    finally:
        os.killpg(process.pid, signal.SIGTERM)  # what it started, too
        process.wait()


def type_a_caption(root: Path) -> dict[str, Any]:
    """What a person does on the review page, done in a browser; it must be on the disk afterwards."""
    key = json.loads((root / "records.jsonl").read_text().splitlines()[0])["key"]
    with (
        server("http://", "-m", "data_prep.review", f"root={root}", "port=0", "name=anna") as said,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page()
        page.goto(f"{said.split()[0]}?clip={key}")
        page.wait_for_function(f"window.reviewPlayer?.spec?.key === '{key}'")
        page.fill("#field-short_en textarea", TYPED)
        for _ in range(600):
            if (entry := read_annotations(root).get(key)) and entry.value("short_en") == TYPED:
                break
            page.wait_for_timeout(50)
        else:
            raise SystemExit("review failed: what was typed is not on the disk")
        browser.close()
    print(f"review: {TYPED!r} typed for {key}, and on the disk", flush=True)
    return {"step": "review", "printed": [f"{key}: {TYPED}"]}


def main(npm: str, work: str, *ingest: str) -> None:
    """Walk."""
    root, shards, begin = Path(work) / "fluent", Path(work) / "shards", time.monotonic()
    steps = [
        run("ingest", "-m", "data_prep.ingest", "source=fluent", f"root={npm}", f"out={root}", "size=128", *ingest),
        run("curate", "-m", "data_prep.curate", f"root={root}"),
    ]
    with server("data_prep.caption", "-m", "tiny_vlm", str(Path(work) / "stand-in")) as told:
        asked = [f"root={root}" if word == "root=DIR" else word for word in told.split()[1:]]
        steps.append(run("caption", *asked))
    steps.append(type_a_caption(root))
    steps += [
        run("shard", "-m", "data_prep.shard", f"root={root}", f"out={shards}"),
        run("verify", "-m", "data_prep.verify", f"root={shards}"),
        run("train", "train.py", "stage=vae", "data=shards", f"data.root={shards}", "trainer.max_steps=5",
            "trainer.val_every_n_steps=0", f"run_dir={work}/run"),
    ]  # fmt: skip
    result = json.dumps({"seconds": round(time.monotonic() - begin), "steps": steps}, indent=2) + "\n"
    RESULT.write_text(result.replace(work, "WORK_DIR"))


if __name__ == "__main__":
    main(*sys.argv[1:])
