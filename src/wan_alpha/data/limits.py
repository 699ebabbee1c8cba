"""What a picture may be: limits that are checked against headers, before anything is allocated."""

from __future__ import annotations

from wan_alpha.data.errors import MediaError

MAX_PIXELS = 2**26
"""Pixels of one frame: 8192x8192, twice an 8K frame.  What claims more is a mistake or an attack."""


def check_size(name: str, height: int, width: int) -> None:
    """Refuse a giant frame.

    Raises:
        MediaError: it has more than `MAX_PIXELS` pixels, or none.
    """
    if not 0 < height * width <= MAX_PIXELS or min(height, width) < 0:
        raise MediaError(
            f"{name}: claims frames of {height}x{width}, and {MAX_PIXELS / 1e6:.0f} megapixels is the limit; "
            "make them smaller, or remove the file"
        )


def webp_size(head: bytes) -> tuple[int, int] | None:
    """(height, width) that the first 30 bytes of a WebP promise; none if they are not of a WebP.

    Pillow makes room for the whole canvas when it opens one, so that asking it would be too late.
    """
    if len(head) < 30 or head[:4] != b"RIFF" or head[8:12] != b"WEBP":
        return None
    kind = head[12:16]
    if kind == b"VP8X":
        return 1 + int.from_bytes(head[27:30], "little"), 1 + int.from_bytes(head[24:27], "little")
    if kind == b"VP8L":
        bits = int.from_bytes(head[21:25], "little")
        return 1 + (bits >> 14 & 0x3FFF), 1 + (bits & 0x3FFF)
    return int.from_bytes(head[28:30], "little") & 0x3FFF, int.from_bytes(head[26:28], "little") & 0x3FFF
