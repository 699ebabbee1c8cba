"""Clips to caption, and endpoints that answer whatever a test wants."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.caption import FAILURES, Options
from wan_alpha.data.media import write_ffv1

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


GOOD = "A red disc grows on and on."


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
    server.daemon_threads = False  # closing waits for them: nothing runs on beside the next test
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1", requests
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
