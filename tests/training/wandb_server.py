"""As much of a W&B server as a run needs, on 127.0.0.1; it can be stopped in the middle of a run."""

from __future__ import annotations

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PROJECT = {"id": "p", "name": "p", "entity": {"id": "e", "name": "e"}}
BUCKET = {"id": "b", "name": "r", "displayName": "r", "config": "{}", "project": PROJECT, "historyLineCount": 0}
ANSWERS = {
    "Viewer": {"viewer": {"id": "u", "username": "u", "entity": "e", "flags": "{}", "teams": {"edges": []}}},
    "UpsertBucket": {"upsertBucket": {"bucket": BUCKET, "inserted": True}},
    "CreateRunFiles": {"createRunFiles": {"runID": "b", "uploadHeaders": [], "files": []}},
}


class WandbServer:
    """Answers the questions with which a run begins, and takes everything else.

    Args:
        answers: to further questions, by the names of GraphQL's operations.
    """

    def __init__(self, **answers: Any) -> None:
        self.answers = ANSWERS | answers
        self.asked: dict[str, Any] = {}  # the variables of each question, last time
        self.streamed = ""  # what has come in of histories

    def __enter__(self) -> WandbServer:
        self.requests: list[str] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self.alive = True
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def stop(self) -> None:
        """From now on connections are refused."""
        if self.alive:
            self.alive = False
            self._server.shutdown()
            self._server.server_close()

    def __exit__(self, *_: Any) -> None:
        self.stop()


def _handler(server: WandbServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            server.requests.append(self.path)
            answer: dict[str, Any] = {}
            if self.path.endswith("/file_stream"):
                server.streamed += body.decode()
            if self.path == "/graphql":
                question = json.loads(body)
                (name,) = re.findall(r"^\s*(?:query|mutation)\s+(\w+)", question["query"]) or [""]
                server.asked[name] = question.get("variables")
                answer = {"data": server.answers.get(name, {})}
            reply = json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)

        do_GET = do_PUT = do_POST  # noqa: N815  # http.server's names

    return Handler
