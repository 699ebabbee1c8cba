"""A miniature of the Fluent emoji packages, made by the real WebP encoder."""

from __future__ import annotations

import io
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

NAMES = (
    "1f99c",  # parrot
    "1f3c3-200d-2642-fe0f",  # man running
    "1f3c3-200d-2640-fe0f",  # woman running: the same concept
    "1f3c3-1f3fb-200d-2640-fe0f",  # with a skin tone
    "0030-fe0f-20e3",  # keycap 0: a still
    "1f44b",  # waving hand: held out
    "2764-fe0f",  # red heart: held out
)


@pytest.fixture(autouse=True)
def _nothing_runs_on() -> Iterator[None]:
    """A server or a worker that outlives its test would work beside the next one."""
    before = set(threading.enumerate())
    yield
    started = [thread for thread in threading.enumerate() if thread not in before and not thread.daemon]
    for thread in started:
        thread.join(60)
    assert not [thread.name for thread in started if thread.is_alive()]


def emoji_bytes(number: int, num_frames: int) -> bytes:
    """A coloured disc that grows, as a losslessly coded animated WebP."""
    y, x = np.mgrid[:48, :48] - 23.5
    images = []
    for t in range(num_frames):
        frame = np.zeros((48, 48, 4), np.uint8)
        frame[..., 3] = np.clip((8 + t / 2 - np.hypot(y, x)) * 60, 0, 255)
        frame[..., :3] = 40 * number, 255 - 30 * number, 128
        images.append(Image.fromarray(frame))
    buffer = io.BytesIO()
    options = {"save_all": True, "append_images": images[1:], "duration": 42} if num_frames > 1 else {}
    images[0].save(buffer, "WEBP", lossless=True, **options)
    return buffer.getvalue()


@pytest.fixture(scope="session")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two packages as `npm pack` leaves them."""
    root = tmp_path_factory.mktemp("packages")
    for package, names in ((1, NAMES[:4]), (2, NAMES[4:])):
        with tarfile.open(root / f"lobehub-fluent-emoji-anim-{package}-1.0.0.tgz", "w:gz") as tar:
            for name in names:
                data = emoji_bytes(NAMES.index(name), 1 if name.startswith("0030") else 30)
                member = tarfile.TarInfo(f"package/assets/{name}.webp")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return root
