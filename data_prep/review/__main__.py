"""Start the review page.

    python -m data_prep.review root=DIR [port=7861] [name=YOU]

Every edit is in `annotations.jsonl` on the disk before the page says "saved"; `data_prep.shard` and training honour it.
"""

from __future__ import annotations

import getpass
import ipaddress
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import uvicorn
from annotated_types import Le

from data_prep.cli import fail, parse, told
from data_prep.review.app import make_app
from wan_alpha.schema import Natural


@dataclass
class Options:
    """Look at the clips of a data set folder in a browser; correct, accept, reject."""

    root: Annotated[Path, "the data set folder"]
    host: Annotated[str, "address to listen on; anything but this machine's own opens the page to the network"] = (
        "127.0.0.1"
    )
    port: Annotated[Natural, Le(65535), "port to listen on; 0: a free one"] = 7861
    name: Annotated[str | None, "who you are, for the record; none: your login name"] = None


def is_local(host: str) -> bool:
    """Whether only this machine can reach an address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def main(arguments: list[str]) -> None:
    """The command line."""
    options = parse(Options, arguments, "python -m data_prep.review")
    with told():
        app = make_app(options.root, options.name or getpass.getuser(), is_local(options.host))
    try:
        listener = socket.create_server((options.host, options.port))
    except OSError as error:
        fail(f"host={options.host} port={options.port}: cannot listen there ({error}); give another port=")
    if not is_local(options.host):
        print(
            f"warning: host={options.host} lets everybody who can reach this machine see the clips and change the "
            "annotations; there is no password",
            file=sys.stderr,
        )
    print(f"http://{options.host}:{listener.getsockname()[1]}  (Ctrl-C ends it)", flush=True)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    try:
        server.run(sockets=[listener])
    except KeyboardInterrupt:
        print("ended; every edit is on the disk")


if __name__ == "__main__":
    main(sys.argv[1:])
