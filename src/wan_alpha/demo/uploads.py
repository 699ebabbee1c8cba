"""Where a page of Gradio keeps the files that pass through it."""

from __future__ import annotations

import atexit
import os
import tempfile


def keep_files_apart() -> None:
    """Give the pages of this process a folder of their own, gone when it ends; call it before a page is made.

    Gradio's is `gradio` in the folder for temporary files: it belongs to whoever made a page on the machine first, and
    nobody else may write there.  Where GRADIO_TEMP_DIR says another one, that stays.
    """
    if not os.environ.get("GRADIO_TEMP_DIR"):
        folder = tempfile.TemporaryDirectory(prefix="wan-alpha-page-", ignore_cleanup_errors=True)
        atexit.register(folder.cleanup)
        os.environ["GRADIO_TEMP_DIR"] = folder.name
