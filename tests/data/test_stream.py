"""The stream as training reads it: killed, split and continued, it gives the same samples, each once."""

from __future__ import annotations

import json
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from pathlib import Path

import cv2
import pytest
import torch
from rgba_media import write_shards
from torch.utils.data import Dataset

from benchmarks.resume import Forked, Settings, compare, consume, data_config, lines_of, measure
from wan_alpha.training.data import ClipDataModule

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker")


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Two sets of uneven shards with clips of 5 and of 9 frames, mixed 2 to 1 and read in two shapes."""
    roots = []
    for name, counts, frames in (("a", [5, 1, 3], 9), ("b", [7], 5)):
        root = tmp_path_factory.mktemp(name)
        write_shards(root, "train", counts, frames)
        write_shards(root, "val", [2], frames)
        roots.append(str(root))
    return {
        "kind": "shards",
        "sources": [{"root": root, "weight": w} for root, w in zip(roots, (2.0, 1.0), strict=True)],
        "buckets": [{"num_frames": 5, "size": [16, 24]}, {"num_frames": 9, "size": [16, 16]}],
        "frame_stride": [1, 2],
        "batch_size": 4,
        "num_workers": 0,
    }


def test_killed_twenty_times_nothing_is_repeated_and_nothing_missing(settings: Settings) -> None:
    settings = settings | {"buckets": [*settings["buckets"], {"num_frames": 9, "size": [16, 24]}]}
    variants = [settings | {"num_workers": workers} for workers in (0, 1)]
    # It forks, and this process may have threads of OpenCV or OpenMP by now: a fresh one has none.
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as fresh:
        result = fresh.submit(measure, variants, 120, 20, 6, "fork").result()
    nothing = {"repeated": 0, "missing": 0, "different": 0}
    assert len(result["killed_after_batches"]) == 20
    assert len(set(result["killed_after_batches"])) > 5  # a busy machine may kill late, but not always
    assert result["killed_and_continued"] == nothing
    assert len(result["split"]) == 9
    assert all(difference == nothing for difference in result["split"].values())
    assert len(result["shapes"]) == 2


def test_a_lost_or_repeated_batch_would_be_noticed(settings: Settings, tmp_path: Path) -> None:
    consume(settings, tmp_path / "log", 6)
    lines = lines_of(tmp_path / "log")
    assert compare(lines, lines) == (0, 0, 0)
    assert compare([*lines[:3], *lines[4:]], lines)[:2] == (0, 4)
    assert compare([*lines[:3], lines[2], *lines[3:]], lines)[:2] == (4, 0)
    other = json.loads(json.dumps(lines))
    other[4]["crc32"][1] += 1
    assert compare(other, lines) == (0, 0, 1)


def test_batches_have_one_shape_and_sets_their_share(settings: Settings) -> None:
    module = Forked(data_config(settings | {"max_corrupt_share": 0.0}), seed=3)
    shapes, from_a = set(), 0
    for batch in islice(module.rank_loader(0), 75):
        assert batch["rgb"].shape[0] == 4
        shapes.add(tuple(batch["rgb"].shape[2:]))
        from_a += sum(index < 9 for index in (module.order.locate(n)[1] for n in batch["index"].tolist()))
    assert shapes == {(5, 16, 24)}  # all clips are 24x32: the nearest aspect ratio decides
    assert abs(from_a / 300 - 2 / 3) < 0.1


def test_validation_takes_from_every_set(settings: Settings) -> None:
    module = Forked(data_config(settings | {"val_clips": 2}), seed=3)
    (batch,) = module.val_dataloader()
    assert batch["index"].tolist() == [0, 2]
    assert batch["rgb"].shape[2:] == (5, 64, 64)
    whole = Forked(data_config(settings), seed=3).val_dataloader()
    assert [n for batch in whole for n in batch["index"].tolist()] == [0, 1, 2, 3]


class Threads(Dataset[dict[str, int]]):
    """How many threads a worker has."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, _: int) -> dict[str, int]:
        return {"opencv": cv2.getNumThreads(), "torch": torch.get_num_threads()}


def test_workers_resize_with_one_thread(settings: Settings) -> None:
    module = ClipDataModule(data_config(settings | {"num_workers": 1}), seed=0)
    assert list(module._loader(Threads(), batch_size=None)) == [{"opencv": 1, "torch": 1}]
