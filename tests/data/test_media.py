"""Every kind of media in and out, with real encoders."""

from __future__ import annotations

import io
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.reformatter import Colorspace
from PIL import Image
from rgba_media import animated, disc, encode, prores, vp9, write_frames

from wan_alpha.data.errors import AlphaError, MediaError
from wan_alpha.data.media import MediaInfo, Pair, each_block, frame_times, probe, read_frames, write_ffv1
from wan_alpha.data.resize import Frames


def ffv1(frames: Frames) -> bytes:
    buffer = io.BytesIO()
    write_ffv1(frames, 24, buffer)
    return buffer.getvalue()


def psnr(found: Frames, expected: Frames) -> float:
    error = np.square(found.astype(float) - expected).mean()
    return float(10 * np.log10(255**2 / max(error, 1e-12)))


LOSSLESS = {
    "mkv": (ffv1, 24.0),
    "webp": (lambda frames: animated(frames, "WEBP"), 24.0),
    "apng": (lambda frames: animated(frames, "PNG"), 25.0),
}
LOSSY = {"mov": prores, "webm": vp9}


@pytest.mark.parametrize("ext", LOSSLESS)
def test_lossless_kinds_come_back_bit_for_bit(ext: str) -> None:
    encoder, fps = LOSSLESS[ext]
    clip = disc()
    data = encoder(clip)
    assert probe(data, ext) == MediaInfo(9, fps, 32, 40)
    np.testing.assert_array_equal(read_frames(data, ext, 0, 9), clip)
    np.testing.assert_array_equal(read_frames(data, f".{ext.upper()}", 2, 3, 2), clip[2:8:2])


@pytest.mark.parametrize("ext", LOSSY)
def test_lossy_kinds_keep_alpha_and_colour(ext: str) -> None:
    clip = disc()
    data = LOSSY[ext](clip)
    assert probe(data, ext) == MediaInfo(9, 24.0, 32, 40)
    frames = read_frames(data, ext, 0, 9)
    assert psnr(frames[..., 3], clip[..., 3]) > 40
    opaque = clip[..., 3] == 255
    assert psnr(frames[opaque][:, :3], clip[opaque][:, :3]) > 30
    np.testing.assert_array_equal(read_frames(data, ext, 3, 2, 4), frames[3:8:4])


@pytest.mark.parametrize("ext", [*LOSSLESS, *LOSSY])
def test_one_pass_holds_few_frames_at_a_time(ext: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = LOSSY[ext](disc()) if ext in LOSSY else LOSSLESS[ext][0](disc())
    monkeypatch.setattr("wan_alpha.data.media.BLOCK_PIXELS", 2 * 32 * 40)
    blocks = list(each_block(data, ext, probe(data, ext)))
    assert [len(block) for block in blocks] == [2, 2, 2, 2, 1]
    np.testing.assert_array_equal(np.concatenate(blocks), read_frames(data, ext, 0, 9))


def test_prores_keeps_the_extremes_of_alpha() -> None:
    clip = disc()
    alpha = read_frames(prores(clip), "mov", 0, 9)[..., 3]
    assert (alpha[clip[..., 3] == 0] == 0).all()
    assert (alpha[clip[..., 3] == 255] == 255).all()


@pytest.mark.parametrize("pixel_format", ["gbrap10le", "gbrap16le", "yuva444p"])
def test_deeper_and_other_matroska_sources_become_8_bit(pixel_format: str) -> None:
    clip = disc()
    data = encode(clip, "ffv1", pixel_format, "matroska")
    visible = clip[..., 3] > 0
    difference = np.abs(read_frames(data, "mkv", 0, 9).astype(int) - clip)
    assert difference[visible].max() <= 3
    assert difference[..., 3].max() <= 1


@pytest.mark.parametrize("said_by", ["picture", "container"])
def test_colours_follow_the_matrix_that_picture_or_container_names(said_by: str) -> None:
    clip = np.empty((1, 32, 64, 4), np.uint8)
    clip[0, :, :32], clip[0, :, 32:] = (255, 0, 0, 255), (40, 90, 200, 128)
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mov") as out:
        stream = out.add_stream("prores_ks", rate=24, options={"profile": "4444"})
        stream.height, stream.width, stream.pix_fmt = 32, 64, "yuva444p10le"
        context = stream.codec_context
        context.colorspace, context.color_primaries, context.color_trc = 1, 1, 1  # BT.709
        picture = av.VideoFrame.from_ndarray(clip[0], format="rgba")
        picture = picture.reformat(format="yuva444p10le", dst_colorspace=Colorspace.ITU709, threads=1)
        picture.colorspace = Colorspace.ITU709 if said_by == "picture" else 2  # 2: not said
        out.mux([*stream.encode(picture), *stream.encode(None)])
    np.testing.assert_allclose(read_frames(buffer.getvalue(), "mov")[0].astype(int), clip[0], atol=1)


def test_what_was_cut_off_a_mov_is_not_read(tmp_path: Path) -> None:
    """As `ffmpeg -ss ... -c copy` and players cut: the frames before are in the file, and an edit list hides them."""
    clip, as_it_is = disc(), {"avoid_negative_ts": "disabled"}
    with av.open(io.BytesIO(prores(clip))) as whole, av.open(str(tmp_path / "cut.mov"), "w", options=as_it_is) as out:
        (stream,) = whole.streams.video
        copy = out.add_stream_from_template(stream)
        for packet in whole.demux(stream):
            if packet.size:
                packet.pts = packet.dts = packet.dts - 2 * packet.duration
                packet.stream = copy
                out.mux(packet)
    assert probe(tmp_path / "cut.mov").num_frames == 7
    expected, found = read_frames(prores(clip), "mov", 2, 7), read_frames(tmp_path / "cut.mov", None, 0, 7)
    np.testing.assert_allclose(found.astype(int), expected, atol=1)  # the copy is decoded with 10 bits, not with 12
    np.testing.assert_array_equal(read_frames(tmp_path / "cut.mov", None, 3, 4), found[3:])
    assert frame_times(tmp_path / "cut.mov") is None


def turned(file: Path) -> None:
    with av.open(str(file), "w") as out:
        stream = out.add_stream("libx264", rate=24)
        stream.height, stream.width, stream.pix_fmt = 32, 48, "yuv420p"
        stream.set_display_rotation(90)
        out.mux([*stream.encode(av.VideoFrame(48, 32, "yuv420p")), *stream.encode(None)])


def anamorphic(file: Path) -> None:
    with av.open(str(file), "w") as out:
        stream = out.add_stream("libx264", rate=24)
        stream.height, stream.width, stream.pix_fmt = 32, 48, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(4, 3)
        out.mux([*stream.encode(av.VideoFrame(48, 32, "yuv420p")), *stream.encode(None)])


def of_two_sizes(file: Path) -> None:
    with av.open(str(file), "w") as out:
        stream = out.add_stream("mjpeg", rate=24)
        stream.height, stream.width, stream.pix_fmt = 32, 48, "yuvj420p"
        out.mux([*stream.encode(av.VideoFrame(48, 32, "yuvj420p")), *stream.encode(None)])
        small = av.CodecContext.create("mjpeg", "w")
        small.height, small.width, small.pix_fmt, small.time_base = 16, 48, "yuvj420p", Fraction(1, 24)
        for packet in small.encode(av.VideoFrame(48, 16, "yuvj420p")):
            packet.stream, packet.pts, packet.dts = stream, 512, 512
            out.mux(packet)


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (turned, "stored turned by 90 degrees; write them upright"),
        (anamorphic, "pixels are 4:3 and not square; mend it: ffmpeg -i IN -vf scale=iw"),
        (of_two_sizes, "frame 1 is 16x48, the clip began with 32x48"),
    ],
)
def test_video_that_would_come_out_distorted_is_refused(
    tmp_path: Path, write: Callable[[Path], None], said: str
) -> None:
    file = tmp_path / "clip.mp4"
    write(file)
    with pytest.raises(MediaError, match=rf"clip\.mp4.*{said}"):
        read_frames(file, None, 0, probe(file, need_alpha=False).num_frames, alpha=False)


@pytest.mark.parametrize("form", ["file", "bytes"])
def test_a_play_list_under_a_false_name_opens_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("secret.mov").write_bytes(prores(disc()))
    Path("clip.mov").write_text("ffconcat version 1.0\nfile secret.mov\n")
    with pytest.raises(MediaError, match=r"clip\.mov: cannot be decoded"):
        probe(Path("clip.mov") if form == "file" else Path("clip.mov").read_bytes(), "mov", "clip.mov")


@pytest.mark.parametrize("name", ["take: 2.mov", "-v.mov", "100%03d #1.mov", "http:x.mov", "m\u00b2\u00b2.mov"])
def test_names_mean_nothing_to_decoders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(prores(disc()))
    assert probe(Path(name)).num_frames == 9
    write_frames(disc(3), Path("frames"), pattern="1\u00b2{}.png")
    assert probe(Path("frames")).num_frames == 3


def test_noise_on_empty_ground_is_removed_from_lossy_sources_only() -> None:
    faint = np.zeros((3, 16, 16, 4), np.uint8)
    faint[:, :, :8] = 200
    faint[:, :, 8:, 3] = 1
    assert (read_frames(ffv1(faint), "mkv", 0, 3)[:, :, 8:, 3] == 1).all()
    assert (read_frames(prores(faint), "mov", 0, 3)[:, :, 8:, 3] == 0).all()


def test_ffv1_bytes_depend_on_the_frames_alone(tmp_path: Path) -> None:
    clip = disc()
    write_ffv1(clip, 24, tmp_path / "a.mkv")
    write_ffv1(clip, 24, tmp_path / "b.mkv")
    assert (tmp_path / "a.mkv").read_bytes() == (tmp_path / "b.mkv").read_bytes() == ffv1(clip)
    assert {file.name for file in tmp_path.iterdir()} == {"a.mkv", "b.mkv"}
    with pytest.raises(ValueError, match=r"\(T, H, W, 4\), got uint8 \(9, 32, 40, 3\)"):
        write_ffv1(clip[..., :3], 24, tmp_path / "c.mkv")


def test_folder_of_frames_is_read_in_natural_order(tmp_path: Path) -> None:
    clip = disc(12)
    folder = write_frames(clip, tmp_path / "clip")  # 0.png 1.png ... 10.png 11.png
    assert probe(folder).num_frames == 12
    np.testing.assert_array_equal(read_frames(folder, None, 1, 4, 3), clip[1:11:3])
    Image.new("RGBA", (8, 8)).save(folder / "5.png")
    with pytest.raises(MediaError, match=r"5\.png is 8x8, the clip began with 32x40"):
        read_frames(folder, None, 0, 12)


def test_pairs_of_folders_files_and_videos(tmp_path: Path) -> None:
    clip = disc()
    fgr = write_frames(clip, tmp_path / "fgr", "RGB")
    pha = write_frames(clip, tmp_path / "pha", "L")
    np.testing.assert_array_equal(read_frames(Pair(fgr, pha), None, 0, 9), clip)
    stills = Pair(fgr / "3.png", pha / "3.png")
    assert probe(stills).num_frames == 1
    np.testing.assert_array_equal(read_frames(stills)[0], clip[3])
    matte = np.repeat(clip[..., 3:], 4, axis=-1)
    for name, frames in (("fgr", clip), ("pha", matte)):
        video = encode(frames, "libx264", "yuv444p", "mp4", crf="5")
        (tmp_path / f"{name}.mp4").write_bytes(video)
    frames = read_frames(Pair(tmp_path / "fgr.mp4", tmp_path / "pha.mp4"), None, 2, 5)
    assert psnr(frames[..., 3], clip[2:7, ..., 3]) > 40
    (pha / "8.png").unlink()
    with pytest.raises(MediaError, match=r"9 frames of 32x40.* 8 of 32x40"):
        probe(Pair(fgr, pha))


def test_sixteen_bit_mattes_are_scaled_not_clipped(tmp_path: Path) -> None:
    write_frames(disc(1), tmp_path / "fgr", "RGB")
    deep = np.linspace(0, 65535, 32 * 40).reshape(32, 40).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "pha.png")
    alpha = read_frames(Pair(tmp_path / "fgr" / "0.png", tmp_path / "pha.png"))[0, ..., 3]
    np.testing.assert_array_equal(alpha, np.rint(deep / 257))


def test_sources_without_alpha_are_refused_by_name(tmp_path: Path) -> None:
    clip = disc()
    (tmp_path / "vp9.webm").write_bytes(vp9(clip, "yuv420p"))
    (tmp_path / "prores.mov").write_bytes(encode(clip, "prores_ks", "yuv444p10le", "mov", profile="4444"))
    Image.fromarray(clip[0, ..., :3]).save(tmp_path / "rgb.png")
    write_frames(clip, tmp_path / "frames", "RGB")
    for name in ("vp9.webm", "prores.mov", "rgb.png", "frames"):
        for read in (probe, read_frames):
            with pytest.raises(AlphaError, match=f"{name}.*expected an alpha channel, found .*pair fgr/"):
                read(tmp_path / name)


def test_broken_files_are_named(tmp_path: Path) -> None:
    clip = disc()
    (tmp_path / "noise.webm").write_bytes(b"no video at all" * 100)
    (tmp_path / "noise.png").write_bytes(b"no picture at all")
    (tmp_path / "empty").mkdir()
    for name in ("noise.webm", "noise.png", "empty", "missing.mov", "missing.webp", "text.txt"):
        with pytest.raises(MediaError, match=name):
            probe(tmp_path / name)
    for ext, encoder in (("webp", lambda frames: animated(frames, "WEBP")), ("mov", prores), ("mkv", ffv1)):
        data = encoder(clip)
        with pytest.raises(MediaError, match="clip seven"):
            read_frames(data[: len(data) * 2 // 3], ext, 0, 9, name="clip seven")


def test_arguments_are_checked() -> None:
    data = ffv1(disc())
    with pytest.raises(ValueError, match="bytes have no file name"):
        probe(data)
    with pytest.raises(ValueError, match="count >= 1"):
        read_frames(data, "mkv", 0, 0)
    with pytest.raises(MediaError, match="frame 9"):
        read_frames(data, "mkv", 5, 5)
