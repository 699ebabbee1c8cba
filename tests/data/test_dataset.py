"""Samples are a pure function of (seed, n), and mean what they say."""

from __future__ import annotations

import io
import tarfile
import threading
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rgba_media import animated, disc, prores, vp9, write_shards
from torch.utils.data import DataLoader

from wan_alpha.data.buckets import Bucket
from wan_alpha.data.dataset import ClipDataset, Sample, collate, draw_stride, frame_window
from wan_alpha.data.errors import DataError, MediaError
from wan_alpha.data.media import read_frames, write_ffv1
from wan_alpha.data.order import GlobalOrderSampler, locate
from wan_alpha.data.resize import Frames
from wan_alpha.data.shards import ShardSource
from wan_alpha.data.source import Clip
from wan_alpha.rendering import COLOURS


class MemorySource:
    """Clips in memory, some of which may be unreadable."""

    def __init__(self, clips: list[Frames], broken: frozenset[int] = frozenset()) -> None:
        self.frames, self.broken, self.problems, self.manifest_hash = clips, broken, [], ""
        self.clips = [
            Clip(f"clip{index}", len(frames), 24.0, frames.shape[1], frames.shape[2], f"disc {index}", "train")
            for index, frames in enumerate(clips)
        ]

    def __len__(self) -> int:
        return len(self.clips)

    def read(self, index: int, start: int, count: int, stride: int = 1) -> Frames:
        if index in self.broken:
            raise MediaError(f"{self.describe(index)}: broken")
        frames = self.frames[index][start : start + count * stride : stride]
        assert len(frames) == count, "asked for more frames than there are"
        return frames

    def describe(self, index: int) -> str:
        return f"memory: clip{index}"


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("shards")
    write_shards(root, "train", [4, 3])
    return root


def equal(a: Sample, b: Sample) -> bool:
    return all(torch.equal(a[k], b[k]) if isinstance(a[k], torch.Tensor) else a[k] == b[k] for k in a)  # type: ignore[literal-required]


def test_shapes_ranges_and_names() -> None:
    dataset = ClipDataset(MemorySource([disc()]), 5, (16, 24), scale=(1, 2))
    for n in range(20):
        sample = dataset[n]
        rgb, alpha = sample["rgb"], sample["alpha"]
        assert rgb.shape == (3, 5, 16, 24)
        assert alpha.shape == (1, 5, 16, 24)
        assert rgb.dtype == alpha.dtype == torch.float32
        assert float(rgb.min()) >= -1
        assert float(rgb.max()) <= 1
        assert float(alpha.min()) >= 0
        assert float(alpha.max()) <= 1
        assert not ((alpha > 0) & (alpha < 0.999 / 255)).any()
        assert (rgb[:, alpha[0] == 0] == -1).all()
        assert (sample["key"], sample["caption"], sample["index"], sample["problem"]) == ("clip0", "disc 0", n, "")


def test_samples_are_a_pure_function_of_seed_and_number(shards: Path) -> None:
    def dataset(seed: int) -> ClipDataset:
        return ClipDataset(ShardSource(shards, "train"), 3, 16, seed=seed, scale=(1, 2))

    forwards, backwards = dataset(7), dataset(7)
    expected = [forwards[n] for n in range(12)]
    assert all(equal(backwards[n], expected[n]) for n in reversed(range(12)))
    other = dataset(8)
    assert not any(equal(other[n], expected[n]) for n in range(12))


def test_workers_change_nothing(shards: Path) -> None:
    dataset = ClipDataset(ShardSource(shards, "train"), 3, 16, seed=1, scale=(1, 1.5))
    runs = []
    for workers in (0, 2):
        sampler = GlobalOrderSampler(5, 3, rank=1, world_size=2)
        context = "spawn" if workers else None  # this process may have threads that a fork would harm
        loader = DataLoader(
            dataset, batch_sampler=sampler, num_workers=workers, collate_fn=collate, multiprocessing_context=context
        )
        runs.append(list(islice(loader, 4)))
    for alone, shared in zip(*runs, strict=True):
        assert alone["rgb"].shape == (3, 3, 3, 16, 16)
        assert alone["background"].shape == (3, 3)
        assert equal(alone, shared)
    assert runs[0][1]["index"].tolist() == [5 + 6 + 3, 5 + 6 + 4, 5 + 6 + 5]


def test_a_batch_made_in_one_piece_is_its_samples_stacked(shards: Path) -> None:
    for dataset in (
        ClipDataset(ShardSource(shards, "train"), 3, 16, seed=1, scale=(1, 1.5)),
        ClipDataset(MemorySource([disc(1)]), 5, 16, scale=(1, 2)),  # a still, slid over
    ):
        apart, whole = collate([dataset[n] for n in range(3)]), collate(dataset.__getitems__([0, 1, 2]))
        assert apart.keys() == whole.keys()
        for name, value in apart.items():
            same = torch.equal(value, whole[name]) if torch.is_tensor(value) else value == whole[name]  # type: ignore[literal-required]
            assert same, name
    clips = [disc(9), disc(9)]
    buckets, labels = [Bucket(3, (16, 16)), Bucket(5, (16, 16))], np.array([0, 1])
    mixed = ClipDataset(MemorySource(clips), 3, 12, buckets=buckets, labels=labels)
    with pytest.raises(ValueError, match="of different shapes"):
        mixed.__getitems__([0, 1])


def test_one_epoch_sees_every_clip_once() -> None:
    dataset = ClipDataset(MemorySource([disc(seed=s) for s in range(7)]), 1, 8, seed=3)
    assert len({dataset[n]["key"] for n in range(7, 14)}) == len(dataset) == 7


def test_without_augmentation_clip_n_is_shown_whole_and_centred() -> None:
    clips = [disc(9, seed=s) for s in range(3)]
    dataset = ClipDataset(MemorySource(clips), 5, (32, 40), seed=5, augment=False)
    for n in (0, 2, 4):
        sample, frames = dataset[n], clips[n % 3][2:7].astype(np.float32) / 255
        assert sample["key"] == f"clip{n % 3}"
        np.testing.assert_allclose(sample["alpha"][0], frames[..., 3], atol=1e-6)
        shown = frames[..., 3] > 0
        np.testing.assert_allclose(sample["rgb"].permute(1, 2, 3, 0)[shown], frames[shown][:, :3] * 2 - 1, atol=1e-6)
    square = ClipDataset(MemorySource(clips), 5, 32, augment=False)[0]  # the middle 32 of 40 columns
    np.testing.assert_allclose(square["alpha"][0], clips[0][2:7, :, 4:36, 3] / np.float32(255), atol=1e-6)


def test_flip_mirrors_and_zoom_enlarges() -> None:
    source = MemorySource([disc(1)])
    dataset = ClipDataset(source, 1, (32, 40), seed=0)
    alpha = torch.from_numpy(disc(1)[..., 3] / np.float32(255))
    kinds = {"kept" if torch.allclose(dataset[n]["alpha"][0], alpha) else "flipped" for n in range(16)}
    assert kinds == {"kept", "flipped"}
    flipped = [dataset[n]["alpha"][0] for n in range(16) if not torch.allclose(dataset[n]["alpha"][0], alpha)]
    assert all(torch.allclose(found, alpha.flip(-1)) for found in flipped)
    zoomed = ClipDataset(source, 1, (32, 40), seed=0, scale=(4, 4))
    assert all(float(zoomed[n]["alpha"].std()) > 0 for n in range(16))  # a window with nothing in it is drawn again


def test_colours_are_two_independent_uniform_draws_from_the_set() -> None:
    dataset = ClipDataset(MemorySource([disc(1, 8, 24)]), 1, 8, seed=0, augment=False)
    table = np.zeros((8, 8))
    for n in range(1600):
        sample = dataset[n]
        rows = [int((sample[name] == COLOURS).all(1).nonzero()) for name in ("background", "canvas")]  # type: ignore[literal-required]
        table[tuple(rows)] += 1
    chi_square = float(((table - 25) ** 2 / 25).sum())
    assert chi_square < 63 + 4 * np.sqrt(2 * 63)  # 63 degrees of freedom, four standard deviations


@given(
    available=st.integers(1, 30),
    count=st.integers(1, 40),
    stride=st.integers(1, 4),
    start=st.floats(0, 1, exclude_max=True),
)
def test_windows_stay_inside_and_go_steadily(available: int, count: int, stride: int, start: float) -> None:
    positions = frame_window(available, count, stride, start)
    assert len(positions) == count
    assert positions.min() >= 0
    assert positions.max() < available
    if (count - 1) * stride < available:
        assert (np.diff(positions) == stride).all()
    elif stride == 1 and available > 1:
        assert (np.abs(np.diff(positions)) == 1).all()


def test_short_clips_run_forth_and_back() -> None:
    assert frame_window(3, 8, 1, 0).tolist() == [0, 1, 2, 1, 0, 1, 2, 1]
    assert frame_window(1, 3, 1, 0.7).tolist() == [0, 0, 0]
    clip = disc(3)
    alpha = ClipDataset(MemorySource([clip]), 5, (32, 40), augment=False)[0]["alpha"][0]
    expected = clip[frame_window(3, 5, 1, 0.5), ..., 3] / np.float32(255)
    np.testing.assert_allclose(alpha, expected, atol=1e-6)


def test_frame_stride_takes_every_so_manyth() -> None:
    clip = disc(9)
    alpha = ClipDataset(MemorySource([clip]), 3, (32, 40), frame_stride=4, augment=False)[0]["alpha"][0]
    np.testing.assert_allclose(alpha, clip[::4, ..., 3] / np.float32(255), atol=1e-6)


@given(
    low=st.integers(1, 4),
    more=st.integers(0, 4),
    available=st.integers(1, 60),
    count=st.integers(1, 20),
    draw=st.floats(0, 1, exclude_max=True),
)
def test_strides_stay_in_their_range_and_within_the_clip(
    low: int, more: int, available: int, count: int, draw: float
) -> None:
    stride = draw_stride((low, low + more), available, count, draw)
    assert low <= stride <= low + more
    assert stride == low or (count - 1) * stride < available


def test_a_range_of_strides_is_drawn_per_sample() -> None:
    clip = disc(13)
    dataset = ClipDataset(MemorySource([clip]), 4, (32, 40), seed=2, frame_stride=(1, 3))
    found = set()
    for n in range(40):
        alpha = dataset[n]["alpha"][0].numpy()
        steps = [t for t in (1, 2, 3) for s in range(13 - 3 * t) for side in (clip, clip[:, :, ::-1])
                 if np.allclose(side[s : s + 3 * t + 1 : t, ..., 3] / np.float32(255), alpha, atol=1e-6)]  # fmt: skip
        found.add(steps[0])
    assert found == {1, 2, 3}
    fixed, ranged = (ClipDataset(MemorySource([clip]), 4, 16, seed=2, frame_stride=s) for s in (1, (1, 1)))
    assert all(equal(fixed[n], ranged[n]) for n in range(8))


def test_clips_get_the_shape_of_their_bucket_also_in_place_of_another() -> None:
    clips = [disc(9, seed=0), disc(5, seed=1), disc(1, seed=2)]
    buckets, labels = [Bucket(9, (16, 24)), Bucket(5, (8, 8))], np.array([0, 1, 0])
    shapes = {}
    for broken in (frozenset[int](), frozenset({0})):
        dataset = ClipDataset(MemorySource(clips, broken), 3, 12, seed=4, buckets=buckets, labels=labels)
        for n in range(3):
            index, shape = locate(n, 3, 4)[1], tuple(dataset[n]["rgb"].shape[1:])
            assert shape == (buckets[labels[index]].num_frames, *buckets[labels[index]].size)
            assert shapes.setdefault(index, shape) == shape
            assert bool(dataset[n]["problem"]) == (index in broken)
    whole = ClipDataset(MemorySource(clips), 3, 12, augment=False, buckets=buckets, labels=labels)
    assert whole[0]["rgb"].shape == (3, 3, 12, 12)  # validation keeps its own


@pytest.mark.parametrize("kind", ["ffv1", "vp9", "prores", "webp"])
def test_decoding_starts_no_threads(kind: str) -> None:
    frames = disc(12, 64, 64)
    media = io.BytesIO()
    if kind == "ffv1":
        write_ffv1(frames, 24, media)
    else:
        media.write({"vp9": vp9, "prores": prores, "webp": lambda f: animated(f, "WEBP")}[kind](frames))
    ext = {"ffv1": ".mkv", "vp9": ".webm", "prores": ".mov", "webp": ".webp"}[kind]
    most, done = [0], threading.Event()

    def watch() -> None:
        while not done.is_set():
            most[0] = max(most[0], len(list(Path("/proc/self/task").iterdir())))

    before = len(list(Path("/proc/self/task").iterdir()))
    watcher = threading.Thread(target=watch)
    watcher.start()
    while most[0] == 0:
        pass
    for _ in range(5):
        read_frames(media.getvalue(), ext, 0, 12)
    done.set()
    watcher.join()
    assert most[0] == before + 1


def test_unreadable_clip_is_replaced_by_the_next_of_the_order_and_named() -> None:
    clips = [disc(seed=s) for s in range(6)]
    order = [locate(n, 6, 0)[1] for n in range(12)]
    dataset = ClipDataset(MemorySource(clips, broken=frozenset(order[:2])), 3, 8, seed=0)
    sample = dataset[0]
    assert sample["key"] == f"clip{order[2]}"
    assert sample["index"] == 0
    assert sample["problem"] == f"memory: clip{order[0]}: broken; memory: clip{order[1]}: broken"
    assert dataset[2]["problem"] == ""
    batch = collate([dataset[0], dataset[2]])
    assert batch["problem"][1] == ""
    assert batch["key"] == [f"clip{order[2]}"] * 2


def test_opaque_window_is_replaced() -> None:
    opaque = disc()
    opaque[..., 3] = 255
    sample = ClipDataset(MemorySource([opaque, disc()]), 3, 8, augment=False)[0]
    assert sample["key"] == "clip1"
    assert sample["problem"] == "memory: clip0: alpha is 1 throughout three windows; has it an alpha?"


def test_all_unreadable_is_an_error() -> None:
    dataset = ClipDataset(MemorySource([disc()] * 3, broken=frozenset(range(3))), 3, 8)
    with pytest.raises(DataError, match=r"3 clips in a row are unreadable:\n  memory: clip"):
        dataset[0]


def test_damaged_member_of_a_shard_is_replaced_and_named(tmp_path: Path) -> None:
    write_shards(tmp_path, "train", [3])
    shard = tmp_path / "train-000000.tar"
    with tarfile.open(shard) as tar:
        member = tar.getmember("train001.mkv")
    data = bytearray(shard.read_bytes())
    data[member.offset_data : member.offset_data + member.size] = bytes(member.size)
    shard.write_bytes(data)
    dataset = ClipDataset(ShardSource(tmp_path, "train"), 3, 8, augment=False)
    sample = dataset[1]
    assert sample["key"] == "train002"
    assert "train-000000.tar: train001.mkv: the bytes are not those that were written" in sample["problem"]


def test_arguments_are_checked() -> None:
    source = MemorySource([disc()])
    for arguments in ({"num_frames": 0, "size": 8}, {"num_frames": 1, "size": 0}, {
        "num_frames": 1, "size": 8, "frame_stride": (3, 2)
    }):  # fmt: skip
        with pytest.raises(ValueError, match="of at least 1"):
            ClipDataset(source, **arguments)
    with pytest.raises(ValueError, match="1 <= low <= high, got"):
        ClipDataset(source, 1, 8, scale=(0.5, 1))
    with pytest.raises(DataError, match="no clips"):
        ClipDataset(MemorySource([]), 1, 8)
