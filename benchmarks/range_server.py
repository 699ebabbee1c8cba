"""A small HTTP file server with Range requests that can be slow, break off, lie and die: for tests and measurements."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class RangeServer:
    """Serves the files of a folder on 127.0.0.1 while it is entered as a context.

    Args:
        root: the folder.
        latency: seconds before each answer.
        ranges: False sends whole files whatever is asked for.
        alter: (path, bytes) -> bytes that are sent instead.

    Attributes:
        requests: how often each path was asked for.
        status: answer everything with this status instead.
        break_after: close the connection after so many bytes of the next answers.
    """

    def __init__(
        self,
        root: Path,
        latency: float = 0.0,
        ranges: bool = True,
        alter: Callable[[str, bytes], bytes] = lambda path, data: data,
    ) -> None:
        self.root, self.latency, self.ranges, self.alter = root, latency, ranges, alter
        self.requests: Counter[str] = Counter()
        self.bytes_sent = 0
        self.status: int | None = None
        self.break_after: int | None = None
        self.port = 0

    @property
    def url(self) -> str:
        """What the files are below."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Listen; after `stop`, on the same port again."""
        self._server = _Server(("127.0.0.1", self.port), _handler(self))
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Refuse connections, and break the open ones."""
        self._server.shutdown()
        self._server.break_connections()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> RangeServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.open: set[socket.socket] = set()

    def process_request(self, request: Any, client_address: Any) -> None:
        self.open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self.open.discard(request)
        super().shutdown_request(request)

    def break_connections(self) -> None:
        for connection in list(self.open):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news."""


def _handler(server: RangeServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def do_GET(self) -> None:
            server.requests[self.path] += 1
            time.sleep(server.latency)
            file = server.root / self.path.lstrip("/")
            if server.status is not None or not file.is_file():
                self.send_response(server.status or 404)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            data = server.alter(self.path, file.read_bytes())
            wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")) if server.ranges else None
            if wanted and int(wanted[1]) >= len(data):
                self.send_response(416)
                data = b""
            elif wanted:
                self.send_response(206)
                first, last = int(wanted[1]), int(wanted[2] or len(data) - 1)
                self.send_header("Content-Range", f"bytes {first}-{min(last, len(data) - 1)}/{len(data)}")
                data = data[first : last + 1]
            else:
                self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if server.break_after is not None and len(data) > server.break_after:
                data, server.break_after = data[: server.break_after], None
                self.close_connection = True
            self.wfile.write(data)
            server.bytes_sent += len(data)

    return Handler
