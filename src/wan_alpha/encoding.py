"""What Python takes the bytes of text files for: every text of ours is UTF-8, and so must its default be."""

from __future__ import annotations

import codecs
import locale


def refused_encoding() -> str:
    """Why texts would be misread by this process, as a sentence; "" if they are not."""
    encoding = locale.getpreferredencoding(False)  # what open() takes without being told; UTF-8 under PYTHONUTF8=1
    if codecs.lookup(encoding).name == "utf-8":
        return ""
    return (
        f"the locale makes Python read and write files as {encoding}, but all texts here are UTF-8; "
        "set PYTHONUTF8=1, or a locale of UTF-8 such as LC_ALL=C.UTF-8, and run the same command again"
    )
