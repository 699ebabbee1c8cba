"""Every format, written and read back by a reader that is not ours: alpha survives, colours and tags are right."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from av.video.reformatter import ColorTrc
from file_readers import ffmpeg_pixels, needs_ffmpeg, probe, psnr
from PIL import Image
from sample_video import disc

from wan_alpha.pipeline.composite import BackgroundError, composite
from wan_alpha.pipeline.image_to_video import read_first_frame
from wan_alpha.pipeline.pixels import linear_light, premultiplied
from wan_alpha.pipeline.video import FORMATS, OutputError, Video, format_of


def visible(pixels: np.ndarray) -> np.ndarray:
    """Premultiplied: hidden colour may differ."""
    return pixels[..., :3] * pixels[..., 3:]


@needs_ffmpeg
def test_prores_4444(tmp_path: Path, video: Video) -> None:
    file = video.save(tmp_path / "out.mov")
    about, wanted, found = probe(file), video.pixels(), ffmpeg_pixels(file)
    assert found.shape == wanted.shape
    assert psnr(found[..., 3], wanted[..., 3]) > 60
    assert psnr(visible(found), visible(wanted)) > 45
    assert about["codec_tag_string"] == "ap4h"
    assert (about["color_space"], about["color_transfer"], about["color_primaries"]) == ("bt709",) * 3
    assert about["avg_frame_rate"] == "16/1"
    assert json.loads(about["tags"]["comment"])["seed"] == 7  # type: ignore[index]


@needs_ffmpeg
def test_vp9_webm(tmp_path: Path, video: Video) -> None:
    """ffmpeg's own VP9 decoder drops alpha without a word; libvpx keeps it."""
    file = video.save(tmp_path / "out.webm")
    about, wanted = probe(file), video.pixels()
    found = ffmpeg_pixels(file, "-c:v", "libvpx-vp9", pixel_format="rgba")
    assert found.shape == wanted.shape
    assert psnr(found[..., 3], wanted[..., 3]) > 45
    assert psnr(visible(found), visible(wanted)) > 35
    assert (about["color_space"], about["color_range"]) == ("bt709", "tv")
    assert about["tags"]["title"] == "a disc"  # type: ignore[index]
    assert ffmpeg_pixels(file, pixel_format="rgba")[..., 3].min() == 1  # what everybody else sees


@needs_ffmpeg
def test_ffv1_is_lossless(tmp_path: Path, video: Video) -> None:
    found = ffmpeg_pixels(video.save(tmp_path / "out.mkv"), pixel_format="rgba")
    assert np.array_equal(np.round(found * 255), np.floor(video.pixels() * 255 + 0.5))


@needs_ffmpeg
def test_apng_is_lossless_and_endless(tmp_path: Path, video: Video) -> None:
    file = video.save(tmp_path / "out.apng")
    found = ffmpeg_pixels(file, pixel_format="rgba")
    assert np.array_equal(np.round(found * 255), np.floor(video.pixels() * 255 + 0.5))
    with Image.open(file) as image:
        assert (image.n_frames, image.info["loop"]) == (4, 0)  # type: ignore[attr-defined]
        assert json.loads(image.info["comment"])["prompt"] == "a disc"


def test_webp_keeps_alpha_exactly_and_the_beat(tmp_path: Path) -> None:
    video = disc(frames=5)
    file = video.save(tmp_path / "out.webp")
    found, durations = [], []
    with Image.open(file) as image:
        for number in range(image.n_frames):  # type: ignore[attr-defined]
            image.seek(number)
            found.append(np.asarray(image.convert("RGBA")) / 255)
            durations.append(image.info["duration"])
        assert json.loads(image.getexif()[0x010E])["title"] == "a disc"
    content = file.read_bytes()
    assert content[content.index(b"EXIF") + 8 :][:4] in (b"II*\0", b"MM\0*")  # TIFF at once, without JPEG's prefix
    wanted = video.pixels()
    assert np.abs(np.stack(found)[..., 3] - wanted[..., 3]).max() <= 0.5 / 255 + 1e-6
    assert psnr(visible(np.stack(found)), visible(wanted)) > 35
    assert sum(durations) == round(1000 * 5 / 16)


@needs_ffmpeg
def test_png_frames(tmp_path: Path, video: Video) -> None:
    folder = video.save(tmp_path / "frames")
    found = ffmpeg_pixels(folder / "%05d.png", pixel_format="rgba")
    assert np.array_equal(np.round(found * 255), np.floor(video.pixels() * 255 + 0.5))
    assert json.loads((folder / "video.json").read_text())["fps"] == 16
    assert b"sRGB" in (folder / "00000.png").read_bytes()[:80]


@needs_ffmpeg
def test_exr_frames_are_linear_and_premultiplied(tmp_path: Path, video: Video) -> None:
    folder = video.save(tmp_path / "frames", format="exr")
    # ffmpeg takes EXR as it is, without a curve; 16 bit integers hold [0, 1].
    found = ffmpeg_pixels(folder / "%05d.exr", pixel_format="rgba64le")
    wanted = premultiplied(linear_light(video.pixels()))
    assert np.abs(found - wanted).max() < 1e-3


@needs_ffmpeg
@pytest.mark.parametrize(
    ("background", "ground"),
    [("checkerboard", "ffffff"), ("#3366cc", "3366cc"), ("cyan", "00ffff")],
)
def test_composite_mp4(tmp_path: Path, video: Video, background: str, ground: str) -> None:
    file = video.save(tmp_path / "out.mp4", background=background)
    found, about = ffmpeg_pixels(file, pixel_format="rgba"), probe(file)
    assert (about["pix_fmt"], about["color_space"], about["color_range"]) == ("yuv420p", "bt709", "tv")
    corner = found[:, :3, :3, :3].mean(axis=(0, 1, 2))
    assert np.abs(corner - np.array(list(bytes.fromhex(ground))) / 255).max() < 0.03
    middle = video.pixels()[:, 24, 32, :3]
    assert np.abs(found[:, 24, 32, :3] - middle).max() < 0.05


@needs_ffmpeg
def test_composite_over_the_users_own_video_and_picture(tmp_path: Path, video: Video) -> None:
    """Shorter and of another size: it starts again and is scaled to cover."""
    plate = disc(frames=2, height=100, width=80)
    plate.save(tmp_path / "plate.mp4", background="#ff8000")
    Image.new("RGB", (10, 30), "#ff8000").save(tmp_path / "plate.png")
    for name in ("plate.mp4", "plate.png"):
        file = video.save(tmp_path / f"{name}-out.mp4", background=str(tmp_path / name))
        found = ffmpeg_pixels(file, pixel_format="rgba")
        assert len(found) == 4
        assert np.abs(found[:, :3, :3, :3].mean(axis=(0, 1, 2)) - np.array([1, 0.5, 0])).max() < 0.06, name
    for wrong in ("nowhere.mp4", "blurple", str(tmp_path)):
        with pytest.raises(ValueError, match="no file, no colour"):
            video.save(tmp_path / "x.mp4", background=wrong)
    picture = (tmp_path / "plate.png").read_bytes()
    broken = {"broken.mp4": b"no video", "broken.png": b"no picture", "cut.png": picture[: len(picture) // 2]}
    for name, content in broken.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(BackgroundError, match=rf"{name}: cannot be (decoded|read as a picture)"):
            video.save(tmp_path / "x.mp4", background=str(tmp_path / name))


def test_a_photograph_lies_as_the_telephone_was_held(tmp_path: Path) -> None:
    picture, exif = Image.new("RGB", (40, 20), (0, 0, 255)), Image.Exif()
    picture.paste((255, 0, 0), (0, 0, 20, 20))
    exif[0x0112] = 6  # turned right: what is stored left is shown above
    picture.save(tmp_path / "plate.jpg", exif=exif, quality=95)
    shown = composite(np.zeros((1, 40, 20, 4), np.float32), str(tmp_path / "plate.jpg"))
    first = np.asarray(read_first_frame(tmp_path / "plate.jpg", 40, 20)) / 255
    for found in (shown[0], first):
        assert np.abs(found[5, 10, :3] - [1, 0, 0]).max() < 0.1
        assert np.abs(found[35, 10, :3] - [0, 0, 1]).max() < 0.1


@pytest.mark.parametrize(
    ("said", "tags", "options", "turned"),
    [
        ("its pictures are stored turned by 90 degrees", {}, {}, 90),
        ("its pixels are 4:3 and not square", {"sample_aspect_ratio": Fraction(4, 3)}, {}, 0),
        ("it is interlaced", {}, {"x264-params": "tff=1"}, 0),
        (r"its colours are HDR \(HLG\)", {"color_trc": ColorTrc.ARIB_STD_B67}, {}, 0),
    ],
)
def test_a_background_video_that_would_be_misread_is_refused(
    tmp_path: Path, said: str, tags: dict[str, int | Fraction], options: dict[str, str], turned: int
) -> None:
    with av.open(str(tmp_path / "plate.mp4"), "w") as out:
        stream = out.add_stream("libx264", rate=24, options=options)
        stream.height, stream.width, stream.pix_fmt = 32, 48, "yuv420p"
        for name, value in tags.items():
            setattr(stream.codec_context, name, value)
        if turned:
            stream.set_display_rotation(turned)
        out.mux([*stream.encode(av.VideoFrame(48, 32, "yuv420p")), *stream.encode(None)])
    with pytest.raises(BackgroundError, match=rf"^background .*plate.mp4: {said}.*: ffmpeg -i IN"):
        composite(np.zeros((1, 16, 16, 4), np.float32), str(tmp_path / "plate.mp4"))


def test_a_background_video_plays_at_its_own_speed(tmp_path: Path) -> None:
    """At 30 and at 10 frames per second under 15, and again from its beginning when it ends."""
    greys = torch.linspace(-1, 1, 6).view(1, 1, 6, 1, 1).expand(1, 3, 6, 16, 16)
    clear = np.zeros((8, 16, 16, 4), np.float32)
    for fps, expected in ((30.0, [0, 2, 4, 0, 2, 4, 0, 2]), (10.0, [0, 0, 1, 2, 2, 3, 4, 4])):
        plate = Video(greys, torch.ones(1, 1, 6, 16, 16), fps).save(tmp_path / f"{fps}.mkv")
        shown = composite(clear, str(plate), fps=15.0)[:, 8, 8, 0]
        assert np.round(shown * 5).tolist() == expected, fps


@needs_ffmpeg
@pytest.mark.parametrize("name", ["mov", "webm", "mkv", "apng", "mp4"])
def test_odd_sizes_and_other_rates(tmp_path: Path, name: str) -> None:
    """4:2:0 with odd sides: VP9 keeps the size, H.264 gets one more row and column."""
    video = disc(frames=2, height=33, width=47, fps=30000 / 1001)
    file = video.save(tmp_path / f"out.{name}")
    about = probe(file)
    assert (about["height"], about["width"]) == ((34, 48) if name == "mp4" else (33, 47))
    if name in ("mov", "webm", "mkv"):
        decoder = ["-c:v", "libvpx-vp9"] if name == "webm" else []
        found = ffmpeg_pixels(file, *decoder, pixel_format="rgba")
        assert psnr(found[..., 3], video.pixels()[..., 3]) > 42
    if name != "apng":
        assert about["avg_frame_rate"] in ("30000/1001", "29970/1000", "10000000/333667", "19001/634", "2997/100")


def test_one_frame_is_a_video_too(tmp_path: Path) -> None:
    video = disc(frames=1)
    for name, kind in FORMATS.items():
        assert video.save(tmp_path / f"{name}{kind.suffix}", format=name).exists()


@needs_ffmpeg
@pytest.mark.parametrize("name", list(FORMATS))
def test_every_file_says_how_it_was_made(tmp_path: Path, name: str) -> None:
    """Prompt, seed and adapters, in any language, as another program finds them."""
    about = {"prompt": "一只鹦鹉; fire = hot", "seed": 2**40, "dit": "t2v.safetensors"}
    video = replace(disc(frames=2), metadata=about)
    file = video.save(tmp_path / f"out{FORMATS[name].suffix}", format=name)
    if name in ("mov", "webm", "mkv", "mp4"):
        text = probe(file)["tags"]["comment"]  # type: ignore[index]
    elif name in ("apng", "png"):
        with Image.open(file if name == "apng" else file / "00001.png") as image:
            text = image.info["comment"]
    elif name == "webp":
        with Image.open(file) as image:
            text = json.loads(image.getexif()[0x010E])["comment"]
    else:
        text = json.loads((file / "video.json").read_text(encoding="utf-8"))["comment"]
    assert json.loads(text) == {"made_with": "wan-alpha", **about}


# ----- bad input -----------------------------------------------------------------------------------------------------


def test_existing_output_stays_unless_asked(tmp_path: Path, video: Video) -> None:
    for name in ("out.apng", "frames"):
        target = video.save(tmp_path / name)
        before = target.stat().st_ino
        with pytest.raises(OutputError, match="exists; give another name, or overwrite=True"):
            video.save(target)
        assert target.stat().st_ino == before
        video.save(target, overwrite=True)
        assert target.stat().st_ino != before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["frames", "out.apng"]


def test_a_folder_of_other_files_is_never_replaced(tmp_path: Path, video: Video) -> None:
    other = tmp_path / "footage" / "take1.mov"
    other.parent.mkdir()
    other.write_bytes(b"mine")
    with pytest.raises(OutputError, match="a folder with other files in it"):
        video.save(other.parent, overwrite=True)
    assert other.read_bytes() == b"mine"


def test_unwritable_output_is_named_and_leaves_nothing(tmp_path: Path, video: Video) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match=r"file/out\.mov cannot be written"):
        video.save(tmp_path / "file" / "out.mov")
    if os.geteuid() != 0:  # root may write anywhere
        (tmp_path / "locked").mkdir(mode=0o500)
        with pytest.raises(OutputError, match="cannot be written"):
            video.save(tmp_path / "locked" / "out.mov")
    with pytest.raises(OutputError, match="cannot be written"):
        video.save(Path("/proc/out.mov"))


def test_a_video_of_no_numbers_is_refused(tmp_path: Path, video: Video) -> None:
    for broken in (replace(video, rgb=video.rgb * float("nan")), replace(video, alpha=video.alpha * float("nan"))):
        with pytest.raises(OutputError, match="the video holds NaN"):
            broken.cleaned().save(tmp_path / "out.webm")
    assert not list(tmp_path.iterdir())


def test_an_interrupted_write_leaves_neither_file_nor_scraps(
    tmp_path: Path, video: Video, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*args: object) -> None:
        (tmp_path / ".out.mov.tmp").write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setitem(FORMATS, "mov", FORMATS["mov"].__class__(".mov", interrupted, ""))
    with pytest.raises(KeyboardInterrupt):
        video.save(tmp_path / "out.mov")
    assert list(tmp_path.iterdir()) == []


def test_formats_are_named_by_suffix_or_option() -> None:
    assert format_of(Path("a/b.MOV")) == "mov"
    assert format_of(Path("frames")) == "png"
    assert format_of(Path("frames"), "exr") == "exr"
    for path, name in (("a.gif", None), ("a.mov", "webm"), ("a", "mov"), ("a", "tiff")):
        with pytest.raises(OutputError):
            format_of(Path(path), name)


def test_metadata_holds_no_paths_of_this_machine(pipe: object, small_adapters: Path) -> None:
    assert str(small_adapters.parent) not in json.dumps(pipe.adapters)  # type: ignore[attr-defined]
    assert torch.is_tensor(disc().rgb)
