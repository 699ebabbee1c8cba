"""A disk that is really full: a file system of a few MiB in a mount namespace of its own."""

from __future__ import annotations

import errno
import subprocess
from pathlib import Path
from typing import Any

import pytest


class SmallDisk:
    """A file system of `size_mib` MiB, mounted over `folder` where only a process of its own sees it.

    `path` leads into it for everybody.  Skips the test where mounting is not allowed.
    """

    def __init__(self, folder: Path, size_mib: int) -> None:
        self.folder, self.size = folder, f"{size_mib}m"

    def __enter__(self) -> SmallDisk:
        self.folder.mkdir()
        mount = f"mount -t tmpfs -o size={self.size} none '{self.folder}' && echo mounted && exec sleep 1000"
        reasons = []
        for create in (["unshare", "-m"], ["unshare", "-Urm"]):  # of root's; of a user's own
            keeper = subprocess.Popen(
                [*create, "sh", "-c", mount], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
            assert keeper.stdout is not None
            if keeper.stdout.readline() == "mounted\n":
                self.keeper, self.path = keeper, Path(f"/proc/{keeper.pid}/root{self.folder}")
                return self
            reasons.append(f"{' '.join(create)}: {keeper.communicate()[1].strip()}")
        pytest.skip(f"this machine lets nobody mount a file system: {'; '.join(reasons)}")

    def __exit__(self, *_: Any) -> None:
        self.keeper.kill()
        self.keeper.communicate()


BALLAST = "ballast"


def fill(path: Path) -> None:
    """Take every byte that is left of the file system of a folder."""
    with open(path / BALLAST, "wb", buffering=0) as file, pytest.raises(OSError, match="No space left") as full:
        while True:
            file.write(bytes(4096))
    assert full.value.errno == errno.ENOSPC
