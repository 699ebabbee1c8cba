"""Names of files that are the same on every system and never a path: made from prompts, or given by people."""

from __future__ import annotations

import hashlib
import re
import unicodedata

SEQUENCE_METADATA = "video.json"
"""What frames in a folder cannot say of themselves: their rate, and how they were made."""

LONGEST, LONGEST_GIVEN = 60, 200  # bytes: file systems allow 255, and suffixes follow
_RESERVED = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10))}


def is_text(text: str) -> bool:
    """Whether it can be written in UTF-8: a shell passes on any bytes, and those that are none come as surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_file_name(name: str) -> bool:
    """Whether a name that somebody gave can be that of a file everywhere, with a suffix behind it."""
    return bool(
        is_text(name)
        and re.fullmatch(r"[^/\\:*?\"<>|\x00-\x1f]+", name)
        and len(name.encode()) <= LONGEST_GIVEN
        and name == name.strip(" .")
        and name.partition(".")[0].lower() not in _RESERVED
    )


def safe_name(text: str) -> str:
    """A prompt as a file name without suffix: letters and digits of any script, in lower case, joined by hyphens.

    Whatever is lost (length, signs, capitals) is told apart by a short hash of the whole text, so that different
    prompts get different names: `a parrot` is `a-parrot`, `../../etc/passwd` is `etc-passwd-` and six digits.
    """
    plain = unicodedata.normalize("NFC", text).strip()
    words = re.findall(r"[^\W_]+", plain.lower())
    name = "-".join(words).encode()[:LONGEST].decode(errors="ignore").strip("-")
    if name == plain.replace(" ", "-") and name not in _RESERVED and name:
        return name
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:6]
    return f"{name or 'prompt'}-{digest}"
