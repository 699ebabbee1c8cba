"""Writing files that are there as a whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path


def write_atomic(file: Path, data: bytes) -> None:
    """Write a file in one step.

    Raises:
        OSError: the disk is full, or the file cannot be written; it names the file, and nothing is left behind.
    """
    partial = file.with_name(f"{file.name}.new.tmp")
    try:
        partial.write_bytes(data)
        os.replace(partial, file)
    except BaseException as error:
        partial.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:  # a full disk does not say where it is
            error.filename = str(file)
        raise
