"""A small synthetic clip, encoders for every kind of media the project reads, and shards made of them."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import zlib
from pathlib import Path

import av
import numpy as np
from PIL import Image

from wan_alpha.data.media import write_ffv1
from wan_alpha.data.resize import Frames


def disc(num_frames: int = 9, height: int = 32, width: int = 40, seed: int = 0) -> Frames:
    """A soft disc that moves to the right: smooth colours, empty ground, an opaque core, a translucent rim."""
    phase = np.random.default_rng(seed).uniform(0, 6)
    y, x = np.mgrid[:height, :width]
    frames = np.zeros((num_frames, height, width, 4), np.uint8)
    for t in range(num_frames):
        distance = np.hypot(y - height / 2, x - 12 - t)
        frames[t, ..., 3] = np.clip((11 - distance) * 40, 0, 255)
        for channel in range(3):
            frames[t, ..., channel] = 128 + 100 * np.sin(phase + channel + y / 20 + x / 25)
    frames[frames[..., 3] == 0] = 0
    return frames


def encode(frames: Frames, codec: str, pixel_format: str, container: str, **options: str) -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as out:
        stream = out.add_stream(codec, rate=24, options=options)
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], pixel_format
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgba")
            # One thread: converting with several races now and then and damages rows.
            out.mux(stream.encode(picture.reformat(format=pixel_format, threads=1)))
        out.mux(stream.encode(None))
    return buffer.getvalue()


def prores(frames: Frames) -> bytes:
    return encode(frames, "prores_ks", "yuva444p10le", "mov", profile="4444")


def vp9(frames: Frames, pixel_format: str = "yuva420p") -> bytes:
    return encode(frames, "libvpx-vp9", pixel_format, "webm", crf="5", **{"b:v": "0"})


def animated(frames: Frames, kind: str) -> bytes:
    options = {"WEBP": {"lossless": True, "exact": True, "duration": 42}, "PNG": {"duration": 40}}[kind]
    images = [Image.fromarray(frame) for frame in frames]
    buffer = io.BytesIO()
    images[0].save(buffer, kind, save_all=True, append_images=images[1:], **options)
    return buffer.getvalue()


def write_frames(frames: Frames, folder: Path, mode: str = "RGBA", pattern: str = "{}.png") -> Path:
    """One file per frame; names are not padded, so that only natural order is right."""
    folder.mkdir(parents=True)
    for number, frame in enumerate(frames):
        picture = {"RGBA": frame, "RGB": frame[..., :3], "L": frame[..., 3]}[mode]
        Image.fromarray(picture).save(folder / pattern.format(number))
    return folder


def write_shards(root: Path, split: str, counts: list[int], num_frames: int = 5) -> None:
    """Shards `split`-00000N.tar with so many FFV1 clips each, and shards.json extended by them."""
    manifest_file = root / "shards.json"
    manifest = json.loads(manifest_file.read_text()) if manifest_file.exists() else {"schema_version": 1, "shards": []}
    number = 0
    for shard, count in enumerate(counts):
        file = root / f"{split}-{shard:06d}.tar"
        with tarfile.open(file, "w") as tar:
            for _ in range(count):
                frames = disc(num_frames, 24, 32, seed=number)
                media = io.BytesIO()
                write_ffv1(frames, 24, media)
                meta = {"num_frames": num_frames, "fps": 24, "height": 24, "width": 32, "caption": f"disc {number}"}
                meta["crc32"] = zlib.crc32(media.getvalue())
                members = {".mkv": media.getvalue(), ".json": json.dumps(meta).encode()}
                for ext, data in members.items():
                    member = tarfile.TarInfo(f"{split}{number:03d}{ext}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
                number += 1
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        entry = {"name": file.name, "sha256": digest, "bytes": file.stat().st_size, "samples": count}
        manifest["shards"].append(entry)
    manifest_file.write_text(json.dumps(manifest))
