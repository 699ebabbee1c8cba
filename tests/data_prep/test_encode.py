"""data_prep.encode: keys, resuming, devices, and what a stale cache is told."""

from __future__ import annotations

import errno
import json
import resource
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from small_world import random_base, write_clips

import data_prep.encode as step
from data_prep.encoder import Encoder, Options
from wan_alpha.data.dataset import ClipDataset
from wan_alpha.data.errors import DataError
from wan_alpha.data.folders import FolderSource
from wan_alpha.data.latents import (
    LatentDataset,
    LatentsError,
    LatentSource,
    collate_latents,
    read_latent_header,
    write_latent_shard,
)
from wan_alpha.models.alpha_vae import AdapterSpec, AlphaVAE
from wan_alpha.models.identity import codec_identity

SIDE = 16


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A base, two sets of adapters and five clips."""
    root = tmp_path_factory.mktemp("world")
    random_base("wan22").save_pretrained(root / "base" / "vae")
    for name, seed in (("adapters", 1), ("other", 2)):
        torch.manual_seed(seed)
        AlphaVAE(random_base("wan22"), AdapterSpec(rank=2, merge_init="random")).save_adapters(root / name)
    write_clips(root / "clips", 5)
    return {name: root / name for name in ("base", "adapters", "other", "clips")}


@pytest.fixture
def options(world: dict[str, Path], tmp_path: Path) -> Options:
    return Options(
        world["clips"], tmp_path / "latents", str(world["base"]), str(world["adapters"]), variants=2, height=SIDE,
        width=SIDE, text=False, shard_samples=2, val_share=0.2, dtype="float32",
    )  # fmt: skip


def files(options: Options) -> dict[str, tuple[int, bytes]]:
    return {f.name: (f.stat().st_mtime_ns, f.read_bytes()) for f in options.out.glob("*.safetensors")}


def test_stored_samples_are_those_of_training_on_the_fly(options: Options) -> None:
    manifest = step.encode(options)
    assert manifest["samples"] == {"train": 6, "val": 2}
    assert len(manifest["shards"]["train"]) == 3
    encoder = Encoder(options, "cpu")
    source = LatentSource(options.out, "train", codec_identity(encoder.codec))
    stored = LatentDataset(source, seed=0)
    fresh = ClipDataset(FolderSource(options.root, "train", 0.2), 5, SIDE, seed=0, scale=(1.0, 1.5))
    for n in range(6):
        pixels: Any = {k: v[None] if torch.is_tensor(v) else v for k, v in fresh[n].items()}
        torch.testing.assert_close(stored[n]["latent"], encoder.codec.encode(pixels)[0], rtol=1e-4, atol=1e-5)
        assert stored[n]["key"] == fresh[n]["key"]
        assert torch.equal(stored[n]["background"], fresh[n]["background"])
        covered = (fresh[n]["alpha"][:, :1] > 0).float()
        assert stored[n]["coverage"][0, 0].mean().item() == pytest.approx(covered.mean().item(), abs=0.01)
    second_pass = [stored[n]["key"] for n in range(6, 12)]
    assert second_pass != [stored[n]["key"] for n in range(6)]
    assert sorted(second_pass) == sorted(stored[n]["key"] for n in range(6))
    batch = collate_latents([stored[n] for n in (3, 7)])
    assert batch["latent"].shape[0] == 2
    assert batch["index"].tolist() == [3, 7]


def test_rounding_is_recorded_and_small(options: Options) -> None:
    exact = replace(options, dtype="float32")
    step.encode(exact)
    wanted = LatentDataset(LatentSource(exact.out, "val", {}), 0, shuffle=False)[0]["latent"]
    errors = {}
    for dtype in ("float16", "bfloat16"):
        small = replace(options, dtype=dtype, out=options.out / dtype)
        assert step.encode(small)["identity"]["dtype"] == dtype
        found = LatentDataset(LatentSource(small.out, "val", {}), 0, shuffle=False)[0]["latent"]
        errors[dtype] = (found - wanted).square().mean().sqrt().item()
    assert 0 < errors["float16"] < errors["bfloat16"] / 4


def test_goes_on_where_it_was_and_redoes_only_what_changed(options: Options, world: dict[str, Path]) -> None:
    step.encode(options)
    before = files(options)
    step.encode(options)
    assert files(options) == before
    (options.out / "train-000001.safetensors").unlink()
    (options.out / "train-000002.safetensors").write_bytes(b"half a file")
    step.encode(options)
    after = files(options)
    assert {name: data for name, (_, data) in after.items()} == {name: data for name, (_, data) in before.items()}
    assert after["train-000000.safetensors"] == before["train-000000.safetensors"]
    step.encode(replace(options, adapters=str(world["other"])))
    assert all(files(options)[name][1] != before[name][1] for name in before)
    step.encode(replace(options, variants=1))
    assert len(files(options)) == 3  # two of train and one of val; the third of train was of the larger run


def test_two_processes_and_two_parts_write_the_same_bytes(options: Options) -> None:
    step.encode(options)
    wanted = {name: data for name, (_, data) in files(options).items()}
    two = replace(options, out=options.out / "two", devices="cpu,cpu")
    step.encode(two)
    assert {name: data for name, (_, data) in files(two).items()} == wanted
    parts = replace(options, out=options.out / "parts", parts=2)
    assert step.encode(parts)["missing"]
    with pytest.raises(LatentsError, match=r"holds no latents.json: python -m data_prep.encode"):
        LatentSource(parts.out, "train", {})
    assert not step.encode(replace(parts, part=1))["missing"]
    assert {name: data for name, (_, data) in files(parts).items()} == wanted


def test_other_adapters_another_base_another_z_are_refused(options: Options) -> None:
    step.encode(options)
    identity = codec_identity(Encoder(options, "cpu").codec)
    for name, words in (("adapters", "with other adapters"), ("base", "with another base"),
                        ("z", "for latents with another number of channels"),
                        ("image", "with another image encoder")):  # fmt: skip
        with pytest.raises(LatentsError, match=f"were made {words}.*run data_prep.encode again"):
            LatentSource(options.out, "train", identity | {name: "something else"})


def test_a_caption_that_changed_makes_its_latent_stale(options: Options) -> None:
    step.encode(options)
    file = options.out / "train-000000.safetensors"
    identity, entries = read_latent_header(file)
    data = file.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    content = json.loads(header["__metadata__"]["wan_alpha"])
    content["entries"][1]["caption"] = "a parrot"
    header["__metadata__"]["wan_alpha"] = json.dumps(content)
    new = json.dumps(header).encode()
    file.write_bytes(len(new).to_bytes(8, "little") + new + data[8 + length :])
    with pytest.raises(LatentsError, match=f"{entries[1].clip} is stale: its caption or window has changed"):
        LatentSource(options.out, "train", {})
    step.encode(options)
    assert read_latent_header(file) == (identity, entries)


def test_a_clip_that_was_edited_is_encoded_again(options: Options, tmp_path: Path) -> None:
    options = replace(options, root=write_clips(tmp_path / "clips", 5))
    step.encode(options)
    before = files(options)
    edited = sorted(options.root.glob("disc*/0.png"))[-1]
    Image.open(edited).transpose(Image.Transpose.FLIP_TOP_BOTTOM).save(edited)
    step.encode(options)
    key = edited.parent.name
    for name, (time, _) in files(options).items():
        holds_it = key in [entry.clip for entry in read_latent_header(options.out / name)[1]]
        assert (time != before[name][0]) is holds_it


def test_a_stand_in_is_chosen_by_its_own_caption(options: Options, tmp_path: Path) -> None:
    options = replace(options, root=write_clips(tmp_path / "clips", 5), variants=1)
    captions = {f"disc{n}": f"number {n}" for n in range(5)}
    (options.root / "captions.json").write_text(json.dumps(captions))
    encoder = Encoder(options, "cpu")
    first, second = (encoder.datasets["train"].source.clips[encoder.datasets["train"].clip(n)] for n in (0, 1))
    for file in (options.root / first.key).iterdir():
        file.write_bytes(b"no picture")
    options.out.mkdir()
    for job in encoder.jobs():
        encoder.encode(job)
    step._finish(options, encoder, encoder.jobs())
    everything = LatentSource(options.out, "train", {})
    assert [entry.clip for entry in everything.entries].count(second.key) == 2
    assert any(first.key in problem for problem in everything.problems)
    left = LatentSource(options.out, "train", {}, exclude=[second.caption])
    assert second.key not in [entry.clip for entry in left.entries]
    assert len(LatentSource(options.out, "train", {}, only=[second.caption])) == 2


def test_held_out_clips_lie_on_the_same_colours_for_every_seed(options: Options) -> None:
    one, two = (Encoder(replace(options, seed=seed), "cpu").datasets for seed in (0, 1))
    assert all(torch.equal(one["val"][n]["background"], two["val"][n]["background"]) for n in range(2))
    assert any(not torch.equal(one["train"][n]["background"], two["train"][n]["background"]) for n in range(6))


def test_shards_of_two_runs_do_not_mix(options: Options, world: dict[str, Path]) -> None:
    step.encode(options)
    other = replace(options, out=options.out / "other", adapters=str(world["other"]))
    step.encode(other)
    (other.out / "train-000001.safetensors").replace(options.out / "train-000001.safetensors")
    with pytest.raises(LatentsError, match=r"is of another run of data_prep.encode \(adapters\)"):
        LatentSource(options.out, "train", {})
    (options.out / "train-000001.safetensors").unlink()
    with pytest.raises(LatentsError, match=r"is missing; run data_prep\.encode again"):
        LatentSource(options.out, "train", {})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"dtype": "int8"}, "dtype=int8: expected one of float16, bfloat16, float32"),
        ({"part": 2, "parts": 2}, "part=2: expected 0 to 1"),
        ({"num_frames": 4}, "a clip has 4 frames; Wan takes 1"),
    ],
)
def test_options_that_make_no_sense(options: Options, change: dict[str, Any], words: str) -> None:
    with pytest.raises((DataError, ValueError), match=words):
        step.encode(replace(options, **change))


def test_a_full_disk_is_an_error_of_the_system(tmp_path: Path) -> None:
    _, most = limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, most))
    try:
        with pytest.raises(OSError, match=r"train-000000\.safetensors") as caught:
            write_latent_shard(tmp_path / "train-000000.safetensors", {}, [], {"latent.0": torch.zeros(9000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.errno == errno.EFBIG
    assert not list(tmp_path.iterdir())
