"""Runs of stage=dit: resumed to the bit, refused where they do not belong, exported as what users load."""

from __future__ import annotations

import csv
import json
import re
import shutil
import time
from pathlib import Path
from typing import Any

import av
import launch
import pytest
import torch
from launch import ROOT, compose, doomed, train
from safetensors import safe_open
from small_dit_base import write_complete_base, write_image_transformer
from test_resume import SIGKILL, assert_equal_tree, last_state, rows

from data_prep.encode import encode
from data_prep.encoder import Options
from wan_alpha import AlphaWanPipeline
from wan_alpha.command import ConfigError
from wan_alpha.data.errors import DataError
from wan_alpha.models.base import BaseError
from wan_alpha.training.checkpoints import CheckpointError
from wan_alpha.training.data import open_source
from wan_alpha.wandb_dashboard import SECTIONS

SMALL = [
    "stage=dit", "base=path", "data=clips", "data.size=[16,16]", "data.num_frames=5", "data.batch_size=2",
    "data.num_workers=0", "data.val_clips=2", "model.adapter.rank=2", "model.variants=2", "model.caption_dropout=0.3",
    "model.samples.prompts=[disc1,disc2]", "model.samples.steps=2", "optim.lr=0.01", "optim.warmup_steps=1",
    "optim.ema_decay=0.5", "trainer.threads=1", "trainer.precision=32-true", "trainer.max_steps=6",
    "trainer.log_every_n_steps=2", "trainer.checkpoint_every_n_steps=1", "trainer.val_every_n_steps=4",
    "callbacks.progress=false", "callbacks.panels=false",
]  # fmt: skip
SHORT = ["trainer.max_steps=4", "trainer.val_every_n_steps=2"]
FULL = ["model.adapter.kind=full", "model.vae_adapters=null"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_complete_base(tmp_path_factory.mktemp("complete"), adapters=True)


def small(base: Path, clips: Path, run_dir: Path, *overrides: str) -> list[str]:
    places = [f"base.path={base}", f"data.root={clips}", f"run_dir={run_dir}", f"model.vae_adapters={base}"]
    other_data = any(option.startswith("data=") for option in overrides)  # Hydra takes a group once
    return [*(option for option in SMALL if not (other_data and option == "data=clips")), *places, *overrides]


@pytest.mark.parametrize("kind", ["dora", "full", "latents", "shifted", "i2v"])
def test_killed_and_continued_is_the_same_run(kind: str, base: Path, clips: Path, tmp_path: Path) -> None:
    root, short = clips, [*SHORT, "model.variants=0"]
    more = {"dora": [], "full": FULL, "latents": ["data=latents", "model.captions=plain", *SHORT],
            "shifted": ["model.noise=shifted", *short], "i2v": ["model.task=i2v", *short]}[kind]  # fmt: skip
    if kind == "latents":
        root = tmp_path / "latents"
        encode(Options(clips, root, str(base), str(base), variants=1, height=16, width=16, val_clips=2))
    if kind == "i2v":
        base = write_image_transformer(shutil.copytree(base, tmp_path / "base"))
    train(*small(base, root, tmp_path / "whole", *more))
    command = small(base, root, tmp_path / "killed", *more)
    assert doomed("after the backward pass", 3, *command).code == SIGKILL
    train(*command)
    state, expected = last_state(tmp_path / "killed"), last_state(tmp_path / "whole")
    for part in ("global_step", "state_dict", "optimizer_states", "lr_schedulers", "callbacks", "noise_levels"):
        assert_equal_tree(state[part], expected[part], part)
    assert rows(tmp_path / "killed") == rows(tmp_path / "whole")
    moved = [n for n, p in state["state_dict"].items() if not torch.equal(p, _start(expected, n))]
    assert moved  # something was trained


def _start(state: dict[str, Any], name: str) -> torch.Tensor:
    """Something that is not the trained weight: its average."""
    callback = next(v for k, v in state["callbacks"].items() if "AdapterEMA" in k)
    return callback["average"][name]


def test_latents_made_before_or_in_the_step(base: Path, clips: Path, tmp_path: Path) -> None:
    """One variant is the first epoch: the same clips in another order, and the same held-out loss to fp16.

    The held-out loss of untrained adapters is that of the base, whatever the seed.
    """
    for n, variants in enumerate((0, 1, 1)):
        still = [f"model.variants={variants}", "optim.lr=1e-9", f"seed={n}", "trainer.max_steps=4"]
        train(*small(base, clips, tmp_path / str(n), *still))
    fresh, *before = ([float(r["val/loss"]) for r in rows(tmp_path / n) if r.get("val/loss")] for n in ("0", "1", "2"))
    assert before[0] == pytest.approx(before[1], rel=1e-6)
    assert before[0] == pytest.approx(fresh, rel=1e-3)


def test_latents_of_other_captions_are_not_used_again(base: Path, clips: Path, tmp_path: Path) -> None:
    root, run_dir = shutil.copytree(clips, tmp_path / "clips"), tmp_path / "run"
    command = small(base, root, run_dir, "trainer.val_every_n_steps=0", "optim.decay_share=0", "trainer.max_steps=1")

    def encoded() -> set[str]:
        with safe_open(run_dir / "latents-train.safetensors", "pt") as file:
            return set(json.loads(file.metadata()["captions"]))

    (root / "captions.json").write_text(json.dumps({f"disc{n}": "a disc" for n in range(9)}))
    train(*command)
    assert all(text.startswith("a disc") or text.endswith("a disc.") for text in encoded())
    (root / "captions.json").write_text(json.dumps({f"disc{n}": "a ball" for n in range(9)}))
    with pytest.raises(CheckpointError, match=r"captions: [0-9a-f]+ -> [0-9a-f]+"):
        train(*command, "trainer.max_steps=2")
    train(*command, "ckpt_path=null")
    assert not any("disc" in text for text in encoded())
    train(*command, "ckpt_path=null", "data.captions.transparency.keep=0")
    assert encoded() == {"a ball"}


def test_what_large_bases_switch_on_takes_the_same_steps(base: Path, clips: Path, tmp_path: Path) -> None:
    """Accumulated batches are one larger batch; a bf16 base with checkpointed blocks learns the same to bf16."""
    steps = ["trainer.max_steps=2", "trainer.val_every_n_steps=2", "trainer.log_every_n_steps=1"]
    large = [
        "trainer.precision=bf16-mixed", "model.frozen.dtype=bfloat16", "trainer.activation_checkpointing=true",
        "model.frozen.text_on_cpu=true", "model.fold_padding=false", "callbacks.panels=true",
    ]  # fmt: skip
    kinds = {"plain": [], "accumulated": ["data.batch_size=1", "trainer.accumulate_grad_batches=2"], "large": large}
    figures, states = {}, {}
    for name, more in kinds.items():
        train(*small(base, clips, tmp_path / name, *steps, *more))
        read = rows(tmp_path / name)
        figures[name] = [float(row[key]) for key in ("train/loss", "val/loss") for row in read if row.get(key)]
        states[name] = last_state(tmp_path / name)["state_dict"]
    assert len(figures["plain"]) == 3
    assert figures["accumulated"] == pytest.approx(figures["plain"], rel=1e-4)
    assert figures["large"] == pytest.approx(figures["plain"], rel=0.03)
    for key, p in states["plain"].items():
        torch.testing.assert_close(states["accumulated"][key], p, rtol=1e-3, atol=1e-4)
        assert states["large"][key].dtype == torch.float32


def test_two_stages_in_a_row(base: Path, clips: Path, tmp_path: Path) -> None:
    """stage=vae, data_prep.encode, stage=dit, generate: each takes what the last one left; the held-out loss falls."""
    vae, latents, dit = (tmp_path / name for name in ("vae", "latents", "dit"))
    train(*launch.small(base, clips, vae, "trainer.max_steps=2", "trainer.val_every_n_steps=0"))
    encode(Options(clips, latents, str(base), str(vae), variants=2, height=16, width=16, val_clips=2, dtype="float32"))
    more = [
        "data=latents", f"data.root={latents}", f"model.vae_adapters={vae}", "model.captions=plain",
        "model.adapter.rank=8", "optim.lr=0.01", "optim.decay_share=0", "trainer.max_steps=24",
        "trainer.val_every_n_steps=2", "trainer.checkpoint_every_n_steps=24",
    ]  # fmt: skip
    train(*small(base, clips, dit, *more))
    held_out = [float(row["val/loss"]) for row in rows(dit) if row.get("val/loss")]
    assert held_out[-1] < held_out[0] - 0.01
    pipe = AlphaWanPipeline.from_pretrained(base, dit)
    pipe.set_progress_bar_config(disable=True)
    video = pipe("disc1", num_frames=5, height=32, width=32, num_inference_steps=2)
    assert video.alpha.shape == (1, 1, 5, 32, 32)
    assert {"vae", "dit"} <= pipe.adapters.keys()  # both out of the one run


def test_the_loss_is_logged_by_noise_level(base: Path, clips: Path, tmp_path: Path) -> None:
    train(*small(base, clips, tmp_path, "trainer.max_steps=4", "trainer.log_every_n_steps=4"))
    with open(tmp_path / "metrics.csv", newline="") as file:
        row = list(csv.DictReader(file))[-1]
    levels = [float(v) for k, v in row.items() if k.startswith("train/loss_t") and v]
    assert len(levels) >= 2  # eight samples
    assert all(0 < level < 20 for level in levels)
    assert {name for plot in SECTIONS["Text to RGBA video"].values() for name in plot} <= set(row)
    assert [k for k in row if k.startswith("val/loss_t")] == [f"val/loss_t{t}" for t in (0.1, 0.3, 0.5, 0.7, 0.9)]


def test_samples_are_drawn_at_every_validation(base: Path, clips: Path, tmp_path: Path) -> None:
    """As panels, and as videos on W&B: five frames of each sample, which move, with the captions they were made from.

    Those of image to video are the held-out clips', not `model.samples.prompts`.
    """
    i2v = write_image_transformer(shutil.copytree(base, tmp_path / "base"))
    more = ["model.task=i2v", "model.variants=0", f"base.path={i2v}", "trainer.val_every_n_steps=3", "logger=wandb"]
    train(*small(base, clips, tmp_path, "callbacks.panels=true", *more))
    drawn = sorted(p.name for p in (tmp_path / "panels").iterdir())
    assert drawn == [f"step-{n:08d}.{kind}" for n in (3, 6) for kind in ("mp4", "png", "webp")]
    films = sorted(tmp_path.glob("wandb/offline-run-*/files/media/videos/samples_*.mp4"))
    assert len(films) == 2
    (log,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    pattern, captions = rb'samples\x12\x07caption\x82\x01."([^"]*)"', []
    until = time.monotonic() + 30  # W&B's own process may write its last lines a moment later
    while not captions and time.monotonic() < until:
        captions = re.findall(pattern, log.read_bytes(), re.DOTALL)
        time.sleep(0.2)
    assert set(captions) == {b"The background is transparent., The background is transparent."}
    for film in films:
        with av.open(str(film)) as container:
            frames = [frame.to_ndarray(format="rgb24").astype(int) for frame in container.decode(video=0)]
        assert len(frames) == 5
        assert abs(frames[0] - frames[-1]).max() > 20


def test_what_a_run_leaves_is_what_diffusers_loads(base: Path, clips: Path, tmp_path: Path) -> None:
    from diffusers import WanPipeline

    from wan_alpha.models.alpha_vae import AlphaVAE

    train(*small(base, clips, tmp_path, "trainer.val_every_n_steps=0"))
    pipeline = WanPipeline.from_pretrained(base)
    pipeline.load_lora_weights(tmp_path / "adapters")
    magnitudes = [n for n, _ in pipeline.transformer.named_parameters() if "magnitude" in n]
    assert len(magnitudes) == 2 * 10  # two blocks, ten linears each
    AlphaVAE.from_pretrained(base, tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["model.adapter.rank=0"], "model.adapter.rank=0: input should be greater than or equal to 1"),
        (["model.validation_timesteps=[0.5,1]"], r"model.validation_timesteps: 1.0 is not in \(0, 1\)"),
        (["model.timesteps.shift=0"], "model.timesteps.shift=0: input should be greater than 0"),
        (
            ["model.timesteps.range=[0.9,0.5]"],
            r"model.timesteps.range=\[0.9, 0.5\]: the smaller noise level comes first",
        ),
        (["model.timesteps.range=[0,2]"], "model.timesteps.range.*less than or equal to 1"),
        (
            ["model.timesteps.range=[0.9,1]"],
            r"model.validation_timesteps: 0.1 is not in model.timesteps.range=\[0.9, 1.0\]",
        ),
        (["model.expert=third"], "model.expert='third': input should be 'transformer' or 'transformer_2'"),
        (["model.adapter.kind=full", "model.expert=transformer_2"], "makes bases with one transformer"),
        (["model.vae_adapters=null"], "model.vae_adapters is null"),
        (["model.init_from=runs/x"], "model.adapter.kind=dora trains adapters"),
        (["data.buckets=[{num_frames: 5, size: [16, 16]}]"], "data.buckets needs model.variants=0"),
    ],
)
def test_what_does_not_belong_together_is_refused(change: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        compose("stage=dit", *change)


def test_a_checkpoint_of_another_configuration_is_refused(base: Path, clips: Path, tmp_path: Path) -> None:
    steady = ["trainer.val_every_n_steps=0", "optim.decay_share=0"]
    train(*small(base, clips, tmp_path, "trainer.max_steps=1", *steady))
    other = ["model.adapter.kind=lora", "model.timesteps.shift=3", "model.timesteps.range=[0.05,0.95]"]
    differing = [
        "model.adapter.kind: dora -> lora",
        r"model.timesteps.range: None -> \[0.05, 0.95\]",
        "model.timesteps.shift: 2.0 -> 3",  # 2 is the shift of the base's scheduler, which the first run left to it
    ]
    with pytest.raises(CheckpointError, match=r"\n *".join(differing)):
        train(*small(base, clips, tmp_path, *other, "optim.decay_share=0"))


def test_a_base_without_a_transformer_is_refused(wan22: Path, base: Path, clips: Path, tmp_path: Path) -> None:
    with pytest.raises(BaseError, match="no Wan transformer at"):
        train(*small(base, clips, tmp_path, f"base.path={wan22}"))


def test_captions_choose_what_training_sees() -> None:
    config, _ = compose("stage=dit")  # the sample clips have captions
    config.data.root = str(ROOT / config.data.root)
    everything = open_source(config.data, "train")
    gone = everything.clips[1].caption
    assert gone
    config.data.exclude = [gone]
    rest = open_source(config.data, "train")
    assert [c.key for c in rest.clips] == [c.key for c in everything.clips if c.caption != gone]
    assert (rest.read(1, 0, 1) == everything.read(2, 0, 1)).all()
    assert rest.manifest_hash != everything.manifest_hash
    config.data.only = [gone, rest.clips[0].caption]
    assert [c.caption for c in open_source(config.data, "train").clips] == [rest.clips[0].caption]
    for key in ("only", "exclude"):
        config.data.only, config.data.exclude = [], []
        setattr(config.data, key, ["no such thing"])
        with pytest.raises(DataError, match=f"no training clip has the caption 'no such thing', which data.{key}"):
            open_source(config.data, "train")


@pytest.mark.parametrize("variants", [0, 1])
def test_shifted_noise_is_another_loss(variants: int, base: Path, clips: Path, tmp_path: Path) -> None:
    steps = ["trainer.max_steps=2", "trainer.val_every_n_steps=2", f"model.variants={variants}"]
    figures = []
    for kind in ("plain", "shifted"):
        train(*small(base, clips, tmp_path / kind, *steps, f"model.noise={kind}", "callbacks.panels=true"))
        figures.append([float(row["val/loss"]) for row in rows(tmp_path / kind) if row.get("val/loss")])
    assert figures[0] != figures[1]
    assert figures[0] == pytest.approx(figures[1], rel=0.1)
