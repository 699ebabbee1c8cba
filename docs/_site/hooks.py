"""What the site shows beyond the pages in docs/: pages that are made of other files, and those files themselves.

Pages are written so that they also read well in the repository: their links go to files beside and above docs/.  Here
such a link is turned to the copy on the site, or, where the site has none, into plain text.
"""

from __future__ import annotations

import posixpath
import re
import time
from pathlib import Path
from typing import Any

import config_page
import results_page
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
COPIED = ("benchmarks/results/*", "experiments/results/*.json", "experiments/README.md")
_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")


def on_config(config: Any) -> None:
    config.copyright = f"Apache-2.0 · built {time.strftime('%Y-%m-%d')}"


def on_files(files: Files, config: Any) -> Files:
    """Add the generated pages and copies of what pages link to."""
    files.append(File.generated(config, "config.md", content=config_page.page()))
    files.append(File.generated(config, "results.md", content=results_page.page()))
    for pattern in COPIED:
        for path in sorted(ROOT.glob(pattern)):
            files.append(File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Links that leave docs/."""
    folder = posixpath.dirname(page.file.src_uri)

    def inside(found: re.Match[str]) -> str:
        mark, text, link = found.groups()
        path, hash_, anchor = link.partition("#")
        target = posixpath.normpath(posixpath.join(folder, path))
        if "://" in link or not path or not target.startswith(".."):
            return found[0]
        home = re.sub(r"^(\.\./)+", "", target)
        if files.get_file_from_path(home) is None:
            return text
        return f"{mark}[{text}]({posixpath.relpath(home, folder or '.')}{hash_}{anchor})"

    return _LINK.sub(inside, markdown)
