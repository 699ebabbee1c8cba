"""Interlaced and HDR video: refused wherever video is read, and what the message says to do does mend it."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.bitstream import BitStreamFilterContext
from av.video.reformatter import ColorPrimaries, Colorspace, ColorTrc
from rgba_media import disc, encode, prores

from data_prep import ingest
from wan_alpha.data.errors import MediaError
from wan_alpha.data.folders import FolderSource
from wan_alpha.data.media import Pair, frame_times, probe, read_frames
from wan_alpha.data.resize import Frames
from wan_alpha.data.shards import ShardSource
from wan_alpha.evaluation.prompts import Prompt
from wan_alpha.evaluation.videos import VideoError, open_system

TOP_FIRST, BOTTOM_FIRST = 2, 3
PQ = {"color_trc": ColorTrc.SMPTE2084, "color_primaries": ColorPrimaries.BT2020, "colorspace": Colorspace.BT2020}
HLG = PQ | {"color_trc": ColorTrc.ARIB_STD_B67}
SDR_2020 = PQ | {"color_trc": ColorTrc.BT2020_10}
BT709 = {"color_trc": ColorTrc.BT709, "color_primaries": ColorPrimaries.BT709, "colorspace": Colorspace.ITU709}
P3 = BT709 | {"color_primaries": ColorPrimaries.SMPTE432}
PRORES = ("prores_ks", "yuva444p10le", "mov")
FIELDS = {"profile": "4444", "flags": "+ildct"}


def tagged(
    codec: str, pixels: str, container: str, options: dict[str, str] | None = None, size: tuple[int, int] = (48, 32),
    rate: int = 24, **tags: int | Fraction,
) -> bytes:  # fmt: skip
    """Three pictures of a video that says this of itself."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as out:
        stream = out.add_stream(codec, rate=rate, options=options or {})
        (stream.width, stream.height), stream.pix_fmt = size, pixels
        for name, value in tags.items():
            setattr(stream.codec_context, name, value)
        for _ in range(3):
            picture = av.VideoFrame(*size, pixels)
            for name in tags.keys() & {"color_trc", "color_primaries", "colorspace"}:
                setattr(picture, name, tags[name])
            out.mux(stream.encode(picture))
        out.mux(stream.encode(None))
    return buffer.getvalue()


def copied(data: bytes, bitstream_filter: str = "null", **tags: int) -> bytes:
    """The same pictures in a MOV, through one of FFmpeg's bitstream filters, whose header says something else."""
    buffer = io.BytesIO()
    with av.open(io.BytesIO(data)) as whole, av.open(buffer, "w", format="mov") as out:
        (stream,) = whole.streams.video
        copy = out.add_stream_from_template(stream)
        for name, value in tags.items():
            setattr(copy.codec_context, name, value)
        through = BitStreamFilterContext(bitstream_filter, stream)
        for packet in whole.demux(stream):
            for ready in through.filter(packet if packet.size else None):
                ready.stream = copy
                out.mux(ready)
    return buffer.getvalue()


INTERLACED: dict[str, Callable[[], bytes]] = {
    "prores.mov": lambda: tagged(*PRORES, FIELDS),
    "x264.mp4": lambda: tagged("libx264", "yuv420p", "mp4", {"x264-params": "tff=1"}),
    "ffv1.mkv": lambda: tagged("ffv1", "bgra", "matroska", field_order=BOTTOM_FIRST),
    "only the container.mov": lambda: tagged("png", "rgba", "mov", field_order=TOP_FIRST),
    "only pictures.mov": lambda: copied(tagged(*PRORES, FIELDS), field_order=1),
}
COLOURS: dict[str, tuple[str, Callable[[], bytes]]] = {
    "prores.mov": (r"HDR \(PQ\)", lambda: tagged(*PRORES, {"profile": "4444"}, **PQ)),
    "vp9.webm": (r"HDR \(HLG\)", lambda: tagged("libvpx-vp9", "yuva420p", "webm", **HLG)),
    "x265.mp4": (r"HDR \(HLG\)", lambda: tagged("libx265", "yuv420p10le", "mp4", size=(64, 64), **HLG)),
    "only pictures.mov": (
        r"HDR \(PQ\)",
        lambda: copied(
            tagged(*PRORES, {"profile": "4444"}, **BT709), "prores_metadata=color_trc=smpte2084"
        ),
    ),
    "linear.mkv": ("linear light", lambda: tagged("ffv1", "gbrap16le", "matroska", color_trc=ColorTrc.LINEAR)),
    "2020.mov": (r"primaries are those of BT\.2020", lambda: tagged(*PRORES, {"profile": "4444"}, **SDR_2020)),
    "p3.mov": ("primaries are those of Display P3", lambda: tagged(*PRORES, {"profile": "4444"}, **P3)),
}  # fmt: skip


def refused(file: Path, said: str) -> None:
    """`said` is what reading it says, from the disk and from memory; probing it says so, unless only pictures do."""
    for source in (file, file.read_bytes()):
        with pytest.raises(MediaError, match=said):
            read_frames(source, file.suffix, 0, 1, name=str(file), alpha=False)
    if not file.stem.startswith("only pictures"):
        for read in (lambda: probe(file, need_alpha=False), lambda: frame_times(file)):
            with pytest.raises(MediaError, match=said):
                read()


@pytest.mark.parametrize("name", INTERLACED)
def test_interlaced_video_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(INTERLACED[name]())
    refused(tmp_path / name, rf"{name}: it is interlaced.*; mend it: ffmpeg -i IN -vf bwdif\S* \.\.\. OUT")


@pytest.mark.parametrize("name", COLOURS)
def test_video_in_other_colours_is_refused(tmp_path: Path, name: str) -> None:
    said, make = COLOURS[name]
    (tmp_path / name).write_bytes(make())
    decoder = "-c:v libvpx-vp9 " if name == "vp9.webm" else ""  # FFmpeg's own would drop alpha
    mend = rf"mend it: ffmpeg {decoder}-i IN -vf zscale=.* \.\.\."
    refused(tmp_path / name, rf"{name}: its .*{said} and would come out .*; {mend}")


def test_one_command_mends_everything(tmp_path: Path) -> None:
    file = tmp_path / "clip.mov"
    file.write_bytes(tagged(*PRORES, FIELDS, sample_aspect_ratio=Fraction(4, 3), **PQ))
    refused(
        file,
        "interlaced, .*; its colours are HDR .*; its pixels are 4:3 .*-vf bwdif=parity=bff,zscale=.*,scale=iw[*]sar",
    )


@pytest.mark.parametrize(
    ("options", "tags"),
    [
        ({}, {"field_order": 0}),
        ({}, {"field_order": 1}),
        ({}, BT709),
        ({}, BT709 | {"color_trc": ColorTrc.IEC61966_2_1}),
        ({}, BT709 | {"color_trc": ColorTrc.BT2020_12}),
        ({}, dict.fromkeys(("color_trc", "color_primaries"), ColorTrc.SMPTE170M) | {"colorspace": Colorspace.ITU601}),
        ({"bits_per_mb": "8000"}, {}),
    ],
)
def test_plain_prores_is_read_whatever_harmless_it_says(options: dict[str, str], tags: dict[str, int]) -> None:
    data = tagged(*PRORES, {"profile": "4444xq"} | options, **tags)
    assert probe(data, "mov").num_frames == 3
    assert read_frames(data, "mov", 0, 3).shape == (3, 32, 48, 4)


def test_the_matrix_of_bt2020_alone_is_read_right() -> None:
    colour = np.full((32, 48, 4), (200, 60, 30, 255), np.uint8)
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mov") as out:
        stream = out.add_stream(PRORES[0], rate=24, options={"profile": "4444"})
        stream.height, stream.width, stream.pix_fmt = 32, 48, PRORES[1]
        stream.codec_context.colorspace = Colorspace.BT2020
        picture = av.VideoFrame.from_ndarray(colour, format="rgba")
        picture = picture.reformat(format=PRORES[1], dst_colorspace=Colorspace.BT2020, threads=1)
        out.mux([*stream.encode(picture), *stream.encode(None)])
    np.testing.assert_allclose(read_frames(buffer.getvalue(), "mov")[0].astype(int), colour, atol=2)


@pytest.mark.parametrize(
    ("make", "said"), [(INTERLACED["prores.mov"], "interlaced"), (COLOURS["prores.mov"][1], "HDR")]
)
def test_folders_ingest_shards_and_evaluation_refuse_it(tmp_path: Path, make: Callable[[], bytes], said: str) -> None:
    good, data = prores(disc(3, 32, 48)), make()
    folder = tmp_path / "clips"
    (folder / "fgr").mkdir(parents=True)
    (folder / "pha").mkdir()
    for file, content in (("alone", data), ("fgr/half", data), ("pha/half", good), ("good", good)):
        (folder / f"{file}.mov").write_bytes(content)
    source = FolderSource(folder, "all")
    assert [clip.key for clip in source.clips] == ["good"]
    assert [problem.split(":")[0] for problem in source.problems if said in problem] == [
        str(folder / "alone.mov"), str(folder / "fgr/half.mov"),
    ]  # fmt: skip
    with pytest.raises(MediaError, match=f"half.*{said}"):
        read_frames(Pair(folder / "fgr/half.mov", folder / "pha/half.mov"))

    out = tmp_path / "ingested"
    ingest.ingest(ingest.Options(source="generic", root=folder, out=out, workers=0))
    left_out = (out / ingest.SKIPPED).read_text().splitlines()
    assert [("alone.mov" in line, "half.mov" in line) for line in left_out if said in line] == [
        (True, False),
        (False, True),
    ]

    (tmp_path / "shards").mkdir()
    meta = {"num_frames": 3, "fps": 24, "height": 32, "width": 48, "caption": ""}
    with tarfile.open(tmp_path / "shards" / "train-000000.tar", "w") as tar:
        for name, content in (("clip.mov", data), ("clip.json", json.dumps(meta).encode())):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    with pytest.raises(MediaError, match=f"train-000000.tar: clip.mov: .*{said}"):
        ShardSource(tmp_path / "shards", "train").read(0, 0, 1)

    with pytest.raises(VideoError, match=f"alone.mov: .*{said}"):
        open_system("theirs", folder, [Prompt("alone", "a disc")])


def ffmpeg(*arguments: str | Path) -> None:
    subprocess.run(["ffmpeg", "-v", "error", "-y", *map(str, arguments)], check=True, timeout=60)


def has_zscale() -> bool:
    if not shutil.which("ffmpeg"):
        return False
    listed = subprocess.run(["ffmpeg", "-v", "error", "-filters"], capture_output=True, text=True, check=True).stdout
    return " zscale " in listed


def mended(file: Path) -> Path:
    """What the command that the message gives makes of it."""
    with pytest.raises(MediaError) as error:
        read_frames(file)
    told = re.search(r"ffmpeg -i IN -vf (\S+) \.\.\. OUT", str(error.value))
    assert told
    out = file.with_name("mended.mov")
    ffmpeg("-i", file, "-vf", told[1], "-c:v", "prores_ks", "-profile:v", "4444", "-pix_fmt", "yuva444p10le", out)
    return out


def close(found: Frames, expected: Frames) -> None:
    """In the mean, alpha differs by less than half a step of 255, the colours of what is opaque by less than 3."""
    difference = np.abs(found.astype(int) - expected)
    assert difference[..., 3].mean() < 0.5
    assert difference[expected[..., 3] == 255][:, :3].mean() < 3


@pytest.mark.skipif(not shutil.which("ffmpeg"), reason="no ffmpeg here")
def test_the_halves_of_a_pair_may_be_vp9_of_10_bit(tmp_path: Path) -> None:
    """libvpx, which keeps the alpha of a WebM, decodes 8 bit only."""
    clip = disc()
    for name, frames in (("fgr", clip), ("pha", np.repeat(clip[..., 3:], 4, axis=-1))):
        (tmp_path / f"{name}.mkv").write_bytes(encode(frames, "ffv1", "yuv444p10le", "matroska"))
        deep = ("-c:v", "libvpx-vp9", "-pix_fmt", "yuv444p10le", "-crf", "5", "-b:v", "0")
        ffmpeg("-i", tmp_path / f"{name}.mkv", *deep, tmp_path / f"{name}.webm")
    close(read_frames(Pair(tmp_path / "fgr.webm", tmp_path / "pha.webm"), None, 2, 5), clip[2:7])


@pytest.mark.skipif(not shutil.which("ffmpeg"), reason="no ffmpeg here")
@pytest.mark.parametrize("knows", ["the pictures", "the container"])
def test_the_command_makes_interlaced_video_progressive(tmp_path: Path, knows: str) -> None:
    moments = disc(12, 64, 80)
    woven = moments[::2].copy()
    woven[:, ::2] = moments[1::2, ::2]  # the bottom field, of odd lines, is the earlier one
    data = encode(woven, *PRORES, **FIELDS) if knows == "the pictures" else encode(woven, "png", "rgba", "mov")
    (tmp_path / "clip.mov").write_bytes(data if knows == "the pictures" else copied(data, field_order=BOTTOM_FIRST))
    file = mended(tmp_path / "clip.mov")
    assert probe(file).num_frames == 12
    assert probe(file).fps == 48
    close(read_frames(file, None, 0, 12), moments)


@pytest.mark.skipif(not has_zscale(), reason="no ffmpeg with zscale here")
@pytest.mark.parametrize("curve", ["smpte2084", "arib-std-b67", "bt2020-10", "linear"])
def test_the_command_brings_colours_back(tmp_path: Path, curve: str) -> None:
    clip = disc(3, 64, 80)
    clip[..., :3] //= 2  # where it is bright, tone mapping makes room for what is brighter than white
    (tmp_path / "plain.mkv").write_bytes(encode(clip, "ffv1", "gbrap16le", "matroska"))
    there = f"setparams=color_primaries=bt709:color_trc=bt709:colorspace=gbr,zscale=p=bt2020:t={curve}:npl=203"
    lossless = ("-c:v", "ffv1", "-pix_fmt", "gbrap16le", "-color_primaries", "bt2020", "-color_trc", curve)
    ffmpeg("-i", tmp_path / "plain.mkv", "-vf", there, *lossless, tmp_path / "clip.mkv")
    close(read_frames(mended(tmp_path / "clip.mkv"), None, 0, 3), clip)
