"""What a browser shows: WebM, APNG and WebP over a coloured page, compared pixel by pixel."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from browser import needs_chromium, open_page
from PIL import Image
from sample_video import disc

from wan_alpha.pipeline.video import Video

GREEN = np.array([32, 192, 96]) / 255


def still(video: Video, frames: int = 3) -> Video:
    """The first frame, several times: a screenshot may come at any moment."""
    return Video(
        video.rgb[:, :, :1].repeat(1, 1, frames, 1, 1), video.alpha[:, :, :1].repeat(1, 1, frames, 1, 1), video.fps
    )


@needs_chromium
def test_alpha_survives_in_a_browser(tmp_path: Path) -> None:
    video = still(disc()).cleaned(0.0, 8)
    for name in ("webm", "apng", "webp"):
        video.save(tmp_path / f"disc.{name}")
    (tmp_path / "page.html").write_text(
        "<body style='margin:0;background:rgb(32,192,96)'><video id=webm src=disc.webm muted autoplay></video>"
        "<img id=apng src=disc.apng><img id=webp src=disc.webp><style>video,img{display:block}</style>"
    )
    pixels = video.pixels()[0]
    expected = pixels[..., :3] * pixels[..., 3:] + GREEN * (1 - pixels[..., 3:])
    with open_page() as page:
        page.goto((tmp_path / "page.html").as_uri())
        page.wait_for_function("document.querySelector('video').currentTime > 0.05")
        page.wait_for_function("[...document.images].every(i => i.complete && i.naturalWidth == 64)")
        shots = {name: page.locator(f"#{name}").screenshot() for name in ("webm", "apng", "webp")}
    for name, shot in shots.items():
        found = np.asarray(Image.open(io.BytesIO(shot)).convert("RGB")) / 255
        error = np.abs(found - expected) * 255
        assert found.shape == expected.shape
        assert error[:4].max() <= 1, f"{name}: the page does not shine through"
        assert error.mean() < (0.6 if name == "apng" else 2.5), name
        # 4:2:0 smears colour by a pixel; nothing else may differ by much.
        assert np.quantile(error, 0.99) < (2 if name == "apng" else 12), name
    opaque = Image.open(io.BytesIO(shots["webm"])).convert("RGB").getpixel((32, 24))
    assert np.abs(np.array(opaque) / 255 - pixels[24, 32, :3]).max() < 0.03
