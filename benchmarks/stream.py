"""What the stream costs beside bare decoding, and how long it takes until the first batch arrives.

    python -m benchmarks.stream [overhead | arrival]

Overhead: the same frames of the same files, decoded bare and as batches of the stream, in turns in one process; CPU
seconds, so that other work of the machine counts less.  The bare loop reads the bytes of a file and decodes the frames
that the sample needs into one uint8 array of full-size frames; it knows which in advance, and does nothing else.  The
stream's batches are float32, cut and resized: order, random numbers, captions, read by offset, checksum, decode, look
for alpha, crop, flip, premultiply, resize, divide, tensors, batch.  Any loader cuts and resizes, so bare decoding
followed by that is shown too.  The files are the WebP of assets/fluent-sample, and twelve of its clips as FFV1.

Arrival: seconds of wall time from opening a source until its first batch, from a folder and over HTTP, for both ways to
fetch, with an empty and a full cache, with and without 20 ms of latency before each answer; and until a whole epoch.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import torch

from benchmarks.range_server import RangeServer
from benchmarks.resume import ROOT, Forked, data_config
from data_prep import shard
from wan_alpha.data.dataset import ClipDataset, _crop, draw_stride, frame_window
from wan_alpha.data.folders import FolderSource
from wan_alpha.data.media import read_frames
from wan_alpha.data.resize import one_thread, resize_clip
from wan_alpha.data.shards import ShardSource
from wan_alpha.data.tars import walk_tar

SAMPLE = ROOT / "assets" / "fluent-sample"
RESULTS = Path(__file__).parent / "results"


def files_apart(root: Path, folder: Path) -> list[Path]:
    """The training clips of shards as single files, in the order of the source."""
    folder.mkdir()
    files = []
    for shards in sorted(root.glob("train-*.tar")):
        with shards.open("rb") as tar:
            for key, member, _ in walk_tar(tar, shards.name, shards.stat().st_size)[0]:
                tar.seek(member.offset)
                files.append(folder / f"{key}{member.ext}")
                files[-1].write_bytes(tar.read(member.size))
    return files


def bare_loop(dataset: ClipDataset, files: list[Path], numbers: range, resize: bool) -> Callable[[], None]:
    """Decode what the samples `numbers` are made of, from single files."""
    wanted = []
    for n in numbers:
        clip, draws, shape = dataset.order.locate(n)[1], dataset._draw(n), dataset.shape(n)
        available = dataset.source.clips[clip].num_frames
        stride = draw_stride(dataset.strides, available, shape.num_frames, draws.stride)
        positions = frame_window(available, shape.num_frames, stride, draws.start)
        assert (positions[1:] - positions[:-1] == stride).all()
        wanted.append((files[clip], int(positions[0]), len(positions), stride, draws, shape.size))

    def run() -> None:
        for file, start, count, stride, draws, size in wanted:
            frames = read_frames(file, None, start, count, stride)
            if resize:
                resize_clip(_crop(frames, draws, size), size)

    return run


def cpu_seconds(run: Callable[[], object]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def as_ffv1(folder: Path, count: int = 12) -> Path:
    """Some of the sample's clips as shards of FFV1."""
    files_apart(SAMPLE, folder / "clips")
    source = FolderSource(folder / "clips", "all", premultiplied="no")
    keys = {clip.key for clip in source.clips if clip.split == "train"}
    keys = set(sorted(keys)[:count]) | {clip.key for clip in source.clips if clip.split == "val"}
    options = shard.Options(folder / "clips", folder / "shards", keep=False, workers=0)
    shard.write_shards(source, folder / "shards", keys=keys, options=options)
    return folder / "shards"


def overhead(root: Path, codec: str, size: int, frames: int, clips: int, repeats: int) -> dict[str, Any]:
    """CPU seconds per clip of the three loops, and the stream's ratio to bare decoding in each repetition."""
    settings = {"size": [size, size], "num_frames": frames, "batch_size": 4, "num_workers": 0, "root": str(root)}
    module = Forked(data_config({"kind": "shards"} | settings), seed=0)
    dataset = module.dataset(module.train_source, augment=True)
    with tempfile.TemporaryDirectory() as folder:
        files, numbers = files_apart(root, Path(folder) / "files"), range(clips)
        loops = {
            "bare": bare_loop(dataset, files, numbers, resize=False),
            "decode, crop, resize": bare_loop(dataset, files, numbers, resize=True),
            # Batches are let go as training lets them go; to keep them would measure the memory that they need.
            "stream": lambda: deque(islice(module.rank_loader(0), clips // 4), maxlen=0),
        }
        seconds: dict[str, list[float]] = {name: [] for name in loops}
        for turn in range(repeats + 1):
            names = list(loops) if turn % 2 else list(loops)[::-1]
            for name in names:
                taken = cpu_seconds(loops[name])
                if turn:  # the first turn warms up
                    seconds[name].append(taken)
    ratios = [s / b for s, b in zip(seconds["stream"], seconds["bare"], strict=True)]
    resized = [s / b for s, b in zip(seconds["stream"], seconds["decode, crop, resize"], strict=True)]
    return {
        "codec": codec,
        "size": size,
        "frames": frames,
        "clips": clips,
        "clips_per_second_per_core": {name: clips / statistics.median(values) for name, values in seconds.items()},
        "stream_to_bare": {"median": statistics.median(ratios), "each": ratios},
        "stream_to_all_three": {"median": statistics.median(resized), "each": resized},
        "cpu_seconds": seconds,
    }


def overheads(clips: int, repeats: int) -> list[dict[str, Any]]:
    """The table: two codecs, a small and a large sample of each."""
    with tempfile.TemporaryDirectory() as folder:
        roots = {"webp": SAMPLE, "ffv1": as_ffv1(Path(folder))}
        shapes = ((64, 5), (256, 17))
        return [overhead(root, codec, *shape, clips, repeats) for codec, root in roots.items() for shape in shapes]


def indexed_copy(folder: Path, copies: int) -> Path:
    """The sample's training shard, several times over, with an index as data_prep.shard writes it."""
    sample = SAMPLE / "train-000000.tar"
    with sample.open("rb") as tar:
        rows = walk_tar(tar, sample.name, sample.stat().st_size)[0]
    entries, lines = [], []
    for copy in range(copies):
        name = f"train-{copy:06d}.tar"
        # Zeros may follow a tar; without them equal shards would be one entry of the cache.
        data = sample.read_bytes() + bytes(512 * copy)
        (folder / name).write_bytes(data)
        digest = hashlib.sha256(data).hexdigest()
        entries.append({"name": name, "sha256": digest, "bytes": len(data), "samples": len(rows)})
        for key, member, meta in rows:
            place = member._replace(shard=name)._asdict()
            lines.append(json.dumps({"key": f"{key}-{copy}", "split": "train", "meta": dict(meta)} | place))
    index = ("\n".join(lines) + "\n").encode()
    (folder / "index.jsonl").write_bytes(index)
    entry = {"name": "index.jsonl", "sha256": hashlib.sha256(index).hexdigest(), "bytes": len(index)}
    (folder / "shards.json").write_text(json.dumps({"schema_version": 1, "shards": entries, "index": entry}))
    return folder


def arrival(url: str, fetch: str, cache: Path, batches: int) -> tuple[float, float]:
    """Seconds until the first batch of four clips, and until `batches` of them, since the source began to open."""
    from wan_alpha.data.dataset import collate
    from wan_alpha.data.stores import open_store

    start = time.perf_counter()
    source = ShardSource(url, "train", store=open_store(url, cache, 10.0, fetch))  # type: ignore[arg-type]
    dataset = ClipDataset(source, 5, 64)
    first = 0.0
    for batch in range(batches):
        collate([dataset[n] for n in range(4 * batch, 4 * batch + 4)])
        first = first or time.perf_counter() - start
    return first, time.perf_counter() - start


def arrivals(copies: int, batches: int, repeats: int) -> list[dict[str, Any]]:
    """The table of arrival times; the best of `repeats`, for other work of the machine only adds."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        root = indexed_copy(Path(folder), copies)
        for latency in (0.0, 0.02):
            with RangeServer(root, latency) as server:
                places = [("folder", str(root), "clips")] if not latency else []
                places += [("http", server.url, "clips"), ("http", server.url, "shards")]
                for kind, url, fetch in places:
                    rows += _arrival_rows(kind, url, fetch, server, latency, batches, repeats)
    return rows


def _arrival_rows(
    kind: str, url: str, fetch: str, server: RangeServer, latency: float, batches: int, repeats: int
) -> list[dict[str, Any]]:
    found: dict[str, list[tuple[float, float]]] = {}
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as cache:
            sent = server.bytes_sent
            for state in ("empty", "full") if kind == "http" else ("none",):
                found.setdefault(state, []).append(arrival(url, fetch, Path(cache), batches))
            sent = server.bytes_sent - sent
    return [
        {
            "from": kind,
            "latency_ms": 1000 * latency,
            "fetch": fetch if kind == "http" else None,
            "cache": state,
            "first_batch_seconds": round(min(first for first, _ in times), 3),
            f"{batches}_batches_seconds": round(min(last for _, last in times), 3),
            "megabytes_sent": round(sent / 1e6, 1) if state == "empty" else 0.0,
        }
        for state, times in found.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", nargs="?", choices=("overhead", "arrival"))
    parser.add_argument("--clips", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--copies", type=int, default=2, help="shards of 15 MB in the arrival measurement")
    parser.add_argument("--batches", type=int, default=6)
    args = parser.parse_args()
    one_thread()
    for part in [args.part] if args.part else ["overhead", "arrival"]:
        if part == "overhead":
            rows = overheads(args.clips, args.repeats)
        else:
            rows = arrivals(args.copies, args.batches, max(2, args.repeats // 2))
        write(part, rows, vars(args))


def write(part: str, rows: list[dict[str, Any]], settings: dict[str, Any]) -> None:
    """Keep the result, with what made it, and show it."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    versions = {"torch": torch.__version__, "opencv": cv2.__version__}
    machine = {"cores": os.cpu_count(), "load": round(os.getloadavg()[0], 1)} | versions
    command = " ".join(["python -m benchmarks.stream", *sys.argv[1:]])
    report = {"command": command, "settings": settings, "commit": commit, "machine": machine, part: rows}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"stream_{part}.json").write_text(json.dumps(report, indent=2) + "\n")
    for row in rows:
        print({key: value for key, value in row.items() if key != "cpu_seconds"})


if __name__ == "__main__":
    main()
