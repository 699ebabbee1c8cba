"""An index made afterwards is the one that would have been written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from matting_trees import rgba, save

from data_prep import shard
from data_prep.index import index, main
from wan_alpha.data.errors import DataError
from wan_alpha.data.shards import ShardSource

SAMPLE = Path(__file__).parents[2] / "assets" / "fluent-sample"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("made")
    for clip in range(5):
        for number, frame in enumerate(rgba(clip, 3)):
            save(frame, root / "in" / f"clip{clip}" / f"{number}.png")
    shard.shard(shard.Options(root / "in", root / "out", val_share=0.4, shard_mb=0.01, workers=0))
    return root / "out"


@pytest.fixture
def bare(made: Path, tmp_path: Path) -> Path:
    """The same shards without their index."""
    root = Path(shutil.copytree(made, tmp_path / "shards"))
    (root / "index.jsonl").unlink()
    manifest = json.loads((root / "shards.json").read_text())
    del manifest["index"]
    (root / "shards.json").write_text(json.dumps(manifest))
    return root


def test_it_is_the_index_that_the_shards_had(bare: Path, made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([f"root={bare}"])
    assert capsys.readouterr().out == f"5 samples -> {bare / 'index.jsonl'}\n"
    assert (bare / "index.jsonl").read_bytes() == (made / "index.jsonl").read_bytes()
    assert json.loads((bare / "shards.json").read_text()) == json.loads((made / "shards.json").read_text())
    (bare / "shards.json").unlink()  # tars made elsewhere have no manifest
    assert index(bare) == 5
    for split in ("train", "val"):
        assert ShardSource(bare, split, verify=True).manifest_hash == ShardSource(made, split).manifest_hash


def test_what_is_not_whole_gets_no_index(bare: Path, tmp_path: Path) -> None:
    tar = next(bare.glob("train-*.tar"))
    tar.write_bytes(tar.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"not those that shards.json names"):
        index(bare)
    tar.write_bytes(tar.read_bytes()[:700])
    (bare / "shards.json").unlink()
    with pytest.raises(DataError, match=f"{tar.name}: .*make the shard again"):
        index(bare)
    assert not (bare / "index.jsonl").exists()
    with pytest.raises(DataError, match=r"expected shards train-000000\.tar"):
        index(tmp_path)


def test_the_shipped_sample_has_one(tmp_path: Path) -> None:
    shutil.copytree(SAMPLE, tmp_path / "copy")
    assert index(tmp_path / "copy") == 56
    for name in ("index.jsonl", "shards.json"):
        assert (tmp_path / "copy" / name).read_bytes() == (SAMPLE / name).read_bytes()
