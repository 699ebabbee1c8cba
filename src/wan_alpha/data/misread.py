"""Video that decodes and yet would be misread: refused with the command that mends it.

What a stream's header says is looked at whenever one is opened, what a picture says when it is decoded: a PNG in a MOV
does not know that it is interlaced, DV does not say so before its first picture.
"""

from __future__ import annotations

from collections.abc import Iterator

import av
from av.video.reformatter import ColorPrimaries, ColorTrc
from av.video.stream import VideoStream

from wan_alpha.data.errors import MediaError

# FFmpeg's own VP8/VP9 decoders drop the alpha plane without a word; libvpx keeps it.
ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
SQUARE = 0.01  # how far from 1 the shape of a pixel may be: encoders round it
FIELD_ORDERS = {2: "tff", 3: "bff", 4: "tff", 5: "bff"}  # of FFmpeg's, the interlaced ones: TT, BB, TB, BT
HDR = {ColorTrc.SMPTE2084: "PQ", ColorTrc.ARIB_STD_B67: "HLG"}
WIDE = {
    ColorPrimaries.BT2020: "BT.2020",
    ColorPrimaries.SMPTE431: "DCI-P3",
    ColorPrimaries.SMPTE432: "Display P3",
}
TO_BT709 = "zscale=p=bt709:t=bt709:m=bt709"
TO_SDR = "zscale=t=linear:npl=203:p=bt709,tonemap=mobius:desat=0,zscale=t=bt709:m=bt709:r=limited"
TO_SQUARE = "scale=iw*sar:ih,setsar=1"


def check_stream(name: str, stream: VideoStream) -> None:
    """Refuse what a stream's header says of all its pictures.

    Raises:
        MediaError: fields, HDR, linear light, primaries much wider than BT.709's, or pixels that are not square.
    """
    context = stream.codec_context
    first = FIELD_ORDERS.get(context.field_order)
    faults = list(_faults(first and f"bwdif=parity={first}", context.color_trc, context.color_primaries))
    shape = stream.sample_aspect_ratio
    if shape and abs(shape - 1) > SQUARE:
        faults.append((f"its pixels are {shape.numerator}:{shape.denominator} and not square", TO_SQUARE))
    _refuse(name, faults, ALPHA_DECODERS.get(context.name))


def check_picture(name: str, picture: av.VideoFrame) -> None:
    """Refuse what a decoded picture says of itself.

    Raises:
        MediaError: it is stored turned, or has fields or colours that `check_stream` refuses.
    """
    if picture.rotation:
        raise MediaError(
            f"{name}: its pictures are stored turned by {picture.rotation} degrees; write them upright, as FFmpeg "
            "does: ffmpeg -i IN ... OUT"
        )
    deinterlace = "bwdif" if picture.interlaced_frame else None
    _refuse(name, list(_faults(deinterlace, picture.color_trc, picture.color_primaries)))


def _faults(deinterlace: str | None, curve: int, primaries: int) -> Iterator[tuple[str, str]]:
    """(what is wrong, FFmpeg's filter that mends it), in the order in which to mend it."""
    if deinterlace:
        yield "it is interlaced, two moments to a picture", deinterlace
    if curve in HDR:
        yield f"its colours are HDR ({HDR[ColorTrc(curve)]}) and would come out grey", TO_SDR
    elif curve == ColorTrc.LINEAR:
        yield "its colours are linear light and would come out dark", TO_BT709
    elif primaries in WIDE:
        yield f"its primaries are those of {WIDE[ColorPrimaries(primaries)]} and would come out pale", TO_BT709


def _refuse(name: str, faults: list[tuple[str, str]], decoder: str | None = None) -> None:
    if faults:
        problems, filters = zip(*faults, strict=True)
        read = f"-c:v {decoder} -i IN" if decoder else "-i IN"
        raise MediaError(f"{name}: {'; '.join(problems)}; mend it: ffmpeg {read} -vf {','.join(filters)} ... OUT")
