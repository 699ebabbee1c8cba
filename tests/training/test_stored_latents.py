"""stage=dit on what data_prep.encode stored, and from a first frame."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from launch import compose, train
from safetensors.torch import load_file
from small_dit_base import CLIP_TOKENS, write_complete_base, write_image_transformer
from small_world import random_base, write_clips
from transformers import CLIPVisionModel

import data_prep.encode as step
from data_prep.encoder import Encoder, Options
from wan_alpha import AlphaWanPipeline
from wan_alpha.command import ConfigError
from wan_alpha.data.latents import LatentDataset, LatentsError, LatentSource
from wan_alpha.lineage import folder_piece
from wan_alpha.losses.shifted_noise import masks_of, object_masks
from wan_alpha.models.alpha_vae import AdapterSpec, AlphaVAE
from wan_alpha.models.base import BaseError
from wan_alpha.models.dit_adapters import load_dit_adapters
from wan_alpha.training.memory import bytes_of
from wan_alpha.training.plan import plan_run
from wan_alpha.training.stored import StoredLatentDataModule


class World:
    """Complete bases for both tasks, adapters of the RGBA VAE, clips, and their latents."""

    def __init__(self, root: Path) -> None:
        self.root, self.clips = root, write_clips(root / "clips", 5)
        self.t2v = write_complete_base(root / "t2v")
        self.i2v = write_image_transformer(write_complete_base(root / "i2v"))
        self.clip = write_image_transformer(write_complete_base(root / "clip"), clip=True)
        torch.manual_seed(0)
        for name in ("adapters", "other"):
            AlphaVAE(random_base("wan22"), AdapterSpec(2, 2.0, "random")).save_adapters(root / name)
        self.options = Options(
            self.clips, root / "latents", str(self.t2v), str(root / "adapters"), variants=2, height=16, width=16,
            shard_samples=3, dtype="float32", val_share=0.3,
        )  # fmt: skip

    def command(self, run_dir: Path, task: str, *overrides: str) -> list[str]:
        return [
            "stage=dit", "base=path", "base.name=small", f"base.path={self.t2v if task == 't2v' else self.i2v}",
            f"model.task={task}", f"model.vae_adapters={self.root / 'adapters'}", "model.adapter.rank=2",
            "model.captions=plain", "model.samples.prompts=[disc0]", "model.samples.steps=2", "data.size=[16,16]",
            "data.num_frames=5", "data.batch_size=2", "data.num_workers=0", "data.zoom=[1.0,1.5]", "data.val_share=0.3",
            "trainer.precision=32-true", "trainer.threads=1", "trainer.max_steps=3", "trainer.val_every_n_steps=3",
            "trainer.log_every_n_steps=1", "callbacks.progress=false", f"run_dir={run_dir}", *overrides,
        ]  # fmt: skip

    def fresh(self) -> list[str]:
        return ["data=clips", f"data.root={self.clips}", "model.variants=0"]

    def stored(self, where: Path | None = None) -> list[str]:
        return ["data=latents", f"data.root={where or self.options.out}"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    made = World(tmp_path_factory.mktemp("world"))
    step.encode(made.options)
    return made


def losses(run_dir: Path, name: str) -> list[float]:
    with (run_dir / "metrics.csv").open() as file:
        return [float(row[name]) for row in csv.DictReader(file) if row.get(name)]


@pytest.mark.parametrize("kind", ["t2v", "shifted", "bf16", "i2v", "clip"])
def test_same_sample_same_loss_stored_or_encoded_now(world: World, tmp_path: Path, kind: str) -> None:
    where, base = world.options.out, getattr(world, kind, world.t2v)
    task = "t2v" if base == world.t2v else "i2v"
    if task == "i2v":
        where = tmp_path / "latents"
        step.encode(replace(world.options, out=where, base=str(base), task="i2v"))
    special = {"shifted": "model.noise=shifted", "bf16": "trainer.precision=bf16-mixed"}
    more = [f"base.path={base}", *([special[kind]] if kind in special else [])]
    train(*world.command(tmp_path / "fresh", task, *world.fresh(), *more))
    train(*world.command(tmp_path / "stored", task, *world.stored(where), *more))
    for name in ("train/loss", "val/loss"):
        fresh, stored = losses(tmp_path / "fresh", name), losses(tmp_path / "stored", name)
        assert len(fresh) == (3 if name == "train/loss" else 1)
        assert stored == pytest.approx(fresh, rel=1e-5)
    assert len(set(losses(tmp_path / "stored", "train/loss"))) == 3
    chain = [json.loads((place / "lineage.json").read_text()) for place in (where, tmp_path / "stored")]
    assert [p["kind"] for p in chain[1]["used"]] == ["latents", "vae-adapters"]
    assert chain[1]["used"] == [*chain[0]["made"], chain[0]["used"][1]]  # what data_prep.encode made, and had used
    assert chain[0]["used"][1]["sha256"] == folder_piece("vae-adapters", world.root / "adapters").digest
    if task == "i2v":
        adapters = load_file(tmp_path / "stored" / "adapters" / "pytorch_lora_weights.safetensors")
        assert any(t.abs().max() > 0 for name, t in adapters.items() if "lora_B" in name)
        load_dit_adapters(WanTransformer3DModel.from_pretrained(base / "transformer"), tmp_path / "stored")
    if kind == "clip":
        source = LatentSource(where, "train", {})
        assert source.read(0)["image"].shape == (CLIP_TOKENS, 8)
        assert not torch.equal(source.read(0)["image"], source.read(1)["image"])
        with pytest.raises(LatentsError, match="with another image encoder"):
            LatentSource(where, "train", {"image": "another"})


def test_shifted_noise_from_stored_latents_is_that_of_the_clips(world: World) -> None:
    """To the bit: an ellipse's fit has thresholds, and a rounded coverage would now and then fall on the other side."""
    encoder = Encoder(world.options, "cpu")
    stored, fresh = LatentDataset(LatentSource(world.options.out, "train", {}), 0), encoder.datasets["train"]
    for n in range(len(stored)):
        masks = object_masks(fresh[n]["alpha"][None], 8)
        assert torch.equal(masks_of(stored[n]["coverage"][None]), masks)
        assert 0 < masks.mean() < 1


def test_stored_text_is_used_only_for_plain_captions_and_a_frozen_encoder(world: World, tmp_path: Path) -> None:
    config = compose(*world.command(tmp_path, "t2v", *world.stored()))[0].data
    for style, frozen, used in (("plain", True, True), ("varied", True, False), ("plain", False, False)):
        data = StoredLatentDataModule(config, 0, 1, {}, style, frozen)  # type: ignore[arg-type]
        sample = data.dataset(data.train_source, shuffle=True)[0]
        assert ("text" in sample) is used
    assert data.dataset(data.val_source, shuffle=False)[0]["latent"].shape == (6, 2, 2, 2)


@pytest.mark.parametrize(
    ("task", "overrides", "error", "words"),
    [
        ("t2v", ["model.vae_adapters={root}/other"], LatentsError, "were made with other adapters"),
        (
            "t2v",
            ["data.num_frames=9"],
            LatentsError,
            "were made of clips of another length.*num_frames 5, here it is 9",
        ),
        ("t2v", ["data.exclude=[unicorn]"], ValueError, "no training clip has the caption 'unicorn'"),
        ("i2v", [], LatentsError, "were made for another task"),
        ("i2v", ["base.path={root}/t2v"], BaseError, "needs an image-to-video base with 16 input channels.*has 6"),
        ("t2v", ["base.path={root}/i2v"], BaseError, "task=t2v needs a base with 6 input channels.*has 16"),
    ],
)
def test_what_does_not_fit_is_refused(
    world: World, tmp_path: Path, task: str, overrides: list[str], error: type[Exception], words: str
) -> None:
    given = [text.format(root=world.root) for text in overrides]
    with pytest.raises(error, match=words):
        train(*world.command(tmp_path, task, *world.stored(), *given))


def test_parts_of_a_configuration_that_do_not_fit() -> None:
    for overrides, words in (
        (["stage=vae", "data=latents", "data.root=somewhere"], "data=latents is for stage=dit"),
        (["stage=dit", "model.task=i2v"], "task=i2v needs data=latents"),
        (["stage=dit", "data=latents", "data.root=x", "data.buckets=[{num_frames: 5, size: [8, 8]}]"], "one shape"),
    ):
        with pytest.raises(ConfigError, match=words):
            compose(*overrides)


def test_a_base_that_wants_clip_and_has_none_is_refused(world: World, tmp_path: Path) -> None:
    base = shutil.copytree(world.clip, tmp_path / "base")
    shutil.rmtree(base / "image_encoder")
    for act in (
        lambda: train(*world.command(tmp_path / "run", "i2v", *world.fresh(), f"base.path={base}")),
        lambda: step.encode(replace(world.options, out=tmp_path / "latents", base=str(base), task="i2v")),
        lambda: AlphaWanPipeline.from_pretrained(base, world.root / "adapters"),
    ):
        with pytest.raises(BaseError, match=r"also wants CLIP features of the first frame.*cannot be read"):
            act()


def test_a_plan_counts_what_clip_adds(world: World, tmp_path: Path) -> None:
    plain, clip = (
        plan_run(compose(*world.command(tmp_path, "i2v", *world.fresh(), f"base.path={base}"))[0])
        for base in (world.i2v, world.clip)
    )
    encoder = CLIPVisionModel.from_pretrained(world.clip / "image_encoder")
    assert clip.parts["image encoder"] == bytes_of(encoder)
    assert clip.parts["transformer"] > plain.parts["transformer"]
    assert clip.parts["activations"] > plain.parts["activations"]
    assert clip.flops > plain.flops
