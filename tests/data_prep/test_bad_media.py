"""Media that are not what they should be: variable frame rate, premultiplied colour, giant frames, odd PNGs."""

from __future__ import annotations

import resource
import struct
import zlib
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from matting_trees import colours, matte, rgba, run, save, skipped
from PIL import Image

from data_prep import ingest
from wan_alpha.data.errors import DataError, MediaError
from wan_alpha.data.folders import FolderSource
from wan_alpha.data.media import frame_times, probe, read_frames, write_ffv1
from wan_alpha.data.resize import Frames

STEADY = [0, 42, 83, 125, 167, 208]  # 24 fps in whole milliseconds
UNSTEADY = [0, 42, 83, 333, 375, 417]  # the third frame stays for 250 ms


def save_timed(frames: Frames, stamps: list[int], file: Path, codec: str = "ffv1", pixels: str = "bgra") -> Path:
    """A video whose frames are shown at `stamps` milliseconds."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(file), "w") as out:
        stream = out.add_stream(codec, rate=1000)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], pixels
        stream.codec_context.time_base = Fraction(1, 1000)
        for frame, stamp in zip(frames, stamps, strict=True):
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgba")
            picture = picture.reformat(format=pixels, threads=1)
            picture.pts, picture.time_base = stamp, Fraction(1, 1000)
            out.mux(stream.encode(picture))
        out.mux(stream.encode(None))
    return file


def save_webp(frames: Frames, lasting: list[int], file: Path) -> Path:
    images = [Image.fromarray(frame) for frame in frames]
    images[0].save(file, save_all=True, append_images=images[1:], duration=lasting, lossless=True, exact=True)
    return file


def test_rounded_timestamps_are_constant_and_a_held_frame_is_not(tmp_path: Path) -> None:
    clip = rgba(num_frames=6)
    assert frame_times(save_timed(clip, STEADY, tmp_path / "steady.mkv")) is None
    assert frame_times(save_timed(clip, STEADY, tmp_path / "steady.mp4", "libx264", "yuv420p")) is None
    for name, codec, pixels in (("a.mkv", "ffv1", "bgra"), ("b.mp4", "libx264", "yuv420p")):
        times = frame_times(save_timed(clip, UNSTEADY, tmp_path / name, codec, pixels))
        assert times is not None
        np.testing.assert_allclose(times - times[0], np.array(UNSTEADY) / 1000, atol=2e-3)
    assert frame_times(save_webp(clip, [42] * 6, tmp_path / "steady.webp")) is None
    for ext in ("webp", "png"):
        times = frame_times(save_webp(clip, [42, 42, 250, 42, 42, 42], tmp_path / f"held.{ext}"))
        assert times is not None
        np.testing.assert_allclose(times, [0, 0.042, 0.084, 0.334, 0.376, 0.418], atol=1e-9)


@pytest.mark.parametrize("kind", ["mkv", "webp"])
def test_variable_rate_is_refused_or_resampled(tmp_path: Path, kind: str) -> None:
    root, out, clip = tmp_path / "own", tmp_path / "out", rgba(num_frames=6)
    root.mkdir()
    write_ffv1(clip, 24, root / "steady.mkv")
    if kind == "mkv":
        save_timed(clip, UNSTEADY, root / "held.mkv")
    else:
        save_webp(clip, [42, 42, 250, 42, 42, 42], root / "held.webp")
    assert set(run("generic", root, out)) == {"steady"}
    (line,) = skipped(out)
    assert "held: its frame rate varies (frames last 41 to 250 ms); give data_prep.ingest constant_fps=24" in line or (
        "held: its frame rate varies (frames last 42 to 250 ms)" in line
    )
    source = FolderSource(root, "all")
    assert [found.key for found in source.clips] == ["steady"]
    assert "its frame rate varies" in source.problems[0]
    records = run("generic", root, out, constant_fps=24.0)
    assert (records["held"]["fps"], records["held"]["num_frames"], records["held"]["media"]) == (24.0, 11, "held.mkv")
    frames, wanted = read_frames(out / "held.mkv", None, 0, 11), clip[[0, 1, 2, 2, 2, 2, 2, 2, 3, 4, 5]]
    np.testing.assert_array_equal(frames[..., 3], wanted[..., 3])
    np.testing.assert_array_equal(frames[wanted[..., 3] > 0], wanted[wanted[..., 3] > 0])
    assert frame_times(out / "held.mkv") is None
    assert records["steady"]["num_frames"] == 6


def test_an_emoji_that_holds_a_frame_gets_its_frames(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    save_webp(rgba(num_frames=6), [42, 42, 252, 42, 42, 42], tmp_path / "set" / "1f4a7.webp")  # as the droplet does
    (record,) = run("fluent", tmp_path / "set", tmp_path / "out").values()
    assert (record["num_frames"], record["fps"], record["media"]) == (11, 24.0, "1f4a7-droplet.mkv")


def test_a_pair_of_variable_rate_stays_together(tmp_path: Path) -> None:
    root, out = tmp_path / "own", tmp_path / "out"
    clip = rgba(num_frames=6)
    grey = np.repeat(clip[..., 3:], 4, axis=-1)
    for name, stamps in (("good", UNSTEADY), ("shifted", [stamp + 30 * (n > 3) for n, stamp in enumerate(UNSTEADY)])):
        save_timed(clip, UNSTEADY, root / "fgr" / f"{name}.mp4", "libx264", "yuv420p")
        save_timed(grey, stamps, root / "pha" / f"{name}.mp4", "libx264", "yuv420p")
    assert run("generic", root, out, constant_fps=24.0)["good"]["num_frames"] == 11
    assert any("is shown at other times than its matte" in line for line in skipped(out))


def darkened(frames: Frames) -> Frames:
    colour = np.rint(frames[..., :3].astype(float) * frames[..., 3:] / 255).astype(np.uint8)
    return np.concatenate([colour, frames[..., 3:]], axis=-1)


def blob(num_frames: int = 3) -> Frames:
    frames = rgba(num_frames=num_frames)
    y, x = np.mgrid[:32, :48]
    frames[..., 3] = np.clip(255 - 14 * np.hypot(y - 16, x - 20), 0, 255)
    return frames


def test_premultiplied_colour_is_refused_converted_or_taken(tmp_path: Path) -> None:
    root, out, clip = tmp_path / "own", tmp_path / "out", blob()
    root.mkdir()
    write_ffv1(darkened(clip), 24, root / "dark.mkv")
    save(rgba()[0], root / "straight.png")
    assert set(run("generic", root, out)) == {"straight"}
    assert "give premultiplied=yes to make it straight" in skipped(out)[0]
    questions: list[list[str]] = []
    options = ingest.Options("generic", root, out, workers=0)

    def answer(keys: list[str]) -> str:
        questions.append(keys)
        return "yes"

    records = {record["key"]: record for record in ingest.ingest(options, answer)}
    assert questions == [["dark"]]
    assert not skipped(out)
    strong = clip[..., 3] > 100
    frames = read_frames(out / records["dark"]["media"], None, 0, 3)
    assert np.abs(frames[strong].astype(int) - clip[strong]).max() <= 2
    assert records["dark"]["premultiplied"] is True
    assert records["straight"]["media"] == "straight.png"  # only what was asked about is converted
    ingest.ingest(options, answer)
    assert len(questions) == 1  # and is not asked about again
    taken = run("generic", root, out, premultiplied="no")
    np.testing.assert_array_equal(read_frames(out / taken["dark"]["media"], None, 0, 3), darkened(clip))
    assert set(run("generic", root, out, premultiplied="yes")) == {"dark"}
    assert "straight: colour exceeds alpha" in skipped(out)[0]
    with pytest.raises(DataError, match="premultiplied=perhaps: expected one of ask, yes, no"):
        run("generic", root, out, premultiplied="perhaps")


def test_nobody_is_asked_without_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ingest.ask_on_terminal(["a"]) == ""
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    for typed, answer in (("yes", "yes"), ("no", "no"), ("skip", "")):
        monkeypatch.setattr("rich.console.Console.input", lambda *_, typed=typed, **__: typed)
        assert ingest.ask_on_terminal(["a", "b"]) == answer


def png(width: int, height: int) -> bytes:
    """A PNG that promises a giant picture in a hundred bytes."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")


def giant(kind: str, tmp_path: Path) -> Path:
    file = tmp_path / f"giant.{kind}"
    if kind == "png":
        file.write_bytes(png(10000, 10000))
    elif kind == "webp":
        data = bytearray(save_webp(rgba(num_frames=3), [42] * 3, file).read_bytes())
        data[24:30] = b"\xfe\x3f\x00" * 2  # 16383 x 16383
        file.write_bytes(data)
    else:
        write_ffv1(np.zeros((2, 300, 300, 4), np.uint8), 24, file)
        data = file.read_bytes()
        assert data.count(b"\xb0\x82\x01\x2c") == data.count(b"\xba\x82\x01\x2c") == 1
        for side in (b"\xb0\x82", b"\xba\x82"):  # width and height
            data = data.replace(side + b"\x01\x2c", side + b"\xff\xf0")
        file.write_bytes(data)
    return file


@pytest.mark.parametrize("kind", ["png", "webp", "mkv"])
def test_giant_frames_are_refused_before_memory_is_taken(tmp_path: Path, kind: str) -> None:
    file = giant(kind, tmp_path)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for read in (probe, read_frames):
        with pytest.raises(MediaError, match=rf"giant\.{kind}: claims frames of .*67 megapixels is the limit"):
            read(file)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB
    (tmp_path / "own").mkdir()
    save(rgba()[0], tmp_path / "own" / "good.png")
    file.rename(tmp_path / "own" / file.name)
    assert set(run("generic", tmp_path / "own", tmp_path / "out")) == {"good"}
    assert "67 megapixels is the limit" in skipped(tmp_path / "out")[0]


def test_a_long_bomb_is_refused_by_its_length(tmp_path: Path) -> None:
    root = tmp_path / "own"
    root.mkdir()
    save_webp(np.tile(rgba(num_frames=2), (60, 1, 1, 1)), [42] * 120, root / "long.webp")
    save(rgba()[0], root / "good.png")
    assert set(run("generic", root, tmp_path / "out", max_gb=1e-4)) == {"good"}
    assert "long: " in skipped(tmp_path / "out")[0]


def save_deep(frame: Frames, file: Path, pixels: str) -> None:
    """A 16-bit PNG by FFmpeg's encoder."""
    with av.open(str(file), "w", format="image2", options={"update": "1"}) as out:
        stream = out.add_stream("png", rate=1)
        stream.height, stream.width, stream.pix_fmt = *frame.shape[:2], pixels
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgba")
        out.mux(stream.encode(picture.reformat(format=pixels, threads=1)))
        out.mux(stream.encode(None))


def test_deep_and_palette_pictures_mean_what_they_say(tmp_path: Path) -> None:
    root, clip = tmp_path / "own", rgba()[0]
    root.mkdir()
    save_deep(clip, root / "deep.png", "rgba64be")
    few = clip.copy()
    few[..., :3] = few[..., :3] // 64 * 64
    few[..., 3] = few[..., 3] // 128 * 255
    Image.fromarray(few).quantize(64).save(root / "palette.png")
    grey = clip.copy()
    grey[..., :3] = grey[..., :1]
    Image.fromarray(np.ascontiguousarray(grey[..., [0, 3]]), "LA").save(root / "greyalpha.png")
    out = tmp_path / "out"
    records = run("generic", root, out, size=32)  # to frames, not to the same bytes
    for key, wanted, slack in (("deep", clip, 1), ("palette", few, 24), ("greyalpha", grey, 0)):
        frame = read_frames(out / records[key]["media"])[0].astype(int)
        visible = wanted[..., 3] > 0
        assert np.abs(frame[..., 3] - wanted[..., 3]).max() <= min(slack, 1), key
        assert np.abs(frame[visible] - wanted[visible]).mean() <= slack, key


def test_constant_and_inverted_mattes_of_a_video(tmp_path: Path) -> None:
    root, out = tmp_path / "own", tmp_path / "out"
    for name, alpha in (("good", matte()), ("inverted", 255 - matte()), ("flat", np.full((32, 48), 77, np.uint8))):
        frames = np.stack([np.dstack([colours(t), alpha]) for t in range(3)])
        root.mkdir(exist_ok=True)
        write_ffv1(frames, 24, root / f"{name}.mkv")
    assert set(run("generic", root, out)) == {"good"}
    text = "\n".join(skipped(out))
    assert "inverted: alpha is opaque along" in text
    assert "flat.mkv: alpha is 77 of 255 in every pixel" in text
    assert set(run("generic", root, out, keep_inverted=True)) == {"good", "inverted"}
