"""Ranks divide a validation among them, and it says what one rank would have said."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import launch
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from launch import train
from PIL import Image
from ranks import Ranks
from small_dit_base import write_complete_base, write_image_transformer
from test_dit_runs import small as small_dit
from test_resume import rows
from test_strategies import CALM

from wan_alpha.models.image_condition import GivenFrame
from wan_alpha.stages.base import BaseVAEModule
from wan_alpha.stages.dit import AlphaDiTModule
from wan_alpha.stages.stage import StageModule
from wan_alpha.training.generation import of_first_ranks, share_of_samples

pytestmark = pytest.mark.timeout(600)


def note_clips(folder: Path, stage: type[StageModule], rank: int) -> None:
    """Called in each rank before its run: the clips that it measures are written down."""
    step = stage.validation_step

    def noted(self: Any, batch: dict, batch_idx: int) -> Any:
        with open(folder / f"measured-{rank}", "a") as file:
            file.write(" ".join([*batch["key"], ""]))
        return step(self, batch, batch_idx)

    stage.validation_step = noted  # type: ignore[method-assign]


def validations(run_dir: Path) -> list[dict[str, float]]:
    found = [{k: float(v) for k, v in row.items() if k.startswith("val/") and v} for row in rows(run_dir)]
    return [row for row in found if row]


def run_both(command: Any, stage: type[StageModule], folder: Path, *divided: str) -> list[list[str]]:
    """One rank, then two; which clips each of the two has measured."""
    train(*command("one"))
    ended = Ranks(2, *command("two", "trainer.devices=2", *divided), prepare=partial(note_clips, folder, stage)).wait()
    assert ended.codes == [0, 0], ended
    one, two = validations(folder / "one"), validations(folder / "two")
    assert one
    assert two == [pytest.approx(row, rel=1e-5) for row in one]
    return [(folder / f"measured-{rank}").read_text().split() for rank in range(2)]


def test_image_to_video(clips: Path, tmp_path: Path) -> None:
    """Three held-out clips on two sharded ranks, which measure two each, one of them twice; and three samples."""
    base = write_image_transformer(write_complete_base(tmp_path / "base", adapters=True))

    def command(name: str, *more: str) -> list[str]:
        options = ["model.task=i2v", "model.variants=0", "data.val_clips=3", "model.samples.prompts=[a,b,c]",
                   "callbacks.panels=true", "trainer.max_steps=1", "trainer.val_every_n_steps=1",
                   "data.val_batch_size=3"]  # fmt: skip
        return small_dit(base, clips, tmp_path / name, *CALM, *options, *more)

    first, second = run_both(command, AlphaDiTModule, tmp_path, "trainer.strategy=fsdp")
    assert len(first) == len(second) == 2
    assert first[0] == second[1]  # the third clip's neighbour is the first again
    assert len({*first, *second}) == 3
    pictures = [Image.open(tmp_path / name / "panels" / "step-00000001.png").convert("RGB") for name in ("one", "two")]
    one, two = (np.asarray(picture, dtype=float) for picture in pictures)
    assert one.shape == two.shape
    assert np.abs(one - two).max() <= 2
    told = [json.loads((tmp_path / name / "metrics.json").read_text())["mean"] for name in ("one", "two")]
    assert told[0] == pytest.approx(told[1], rel=1e-5)


def test_a_base_from_scratch(clips: Path, tmp_path: Path) -> None:
    size = ["model.architecture.base_dim=8", "model.architecture.z_dim=4",
            "model.architecture.latents_mean=[0,0,0,0]", "model.architecture.latents_std=[1,1,1,1]"]  # fmt: skip
    kept = [part for part in launch.SMALL if not part.startswith(("model.lora", "loss.", "base="))]

    def command(name: str, *more: str) -> list[str]:
        places = [f"data.root={clips}", f"run_dir={tmp_path / name}"]
        steps = ["trainer.max_steps=1", "trainer.val_every_n_steps=1", "data.val_clips=3", "data.val_batch_size=2"]
        return ["stage=base", *kept, *size, *places, "data.val_share=0.4", "data.global_batch=4", *steps, *more]

    first, second = run_both(command, BaseVAEModule, tmp_path, "trainer.strategy=ddp")
    assert len(first) == len(second) == 2
    assert len({*first, *second}) == 3


@given(st.integers(1, 9), st.integers(1, 12), st.integers(1, 9), st.booleans())
def test_every_sample_is_made_from_its_own_clip(prompts: int, ranks: int, held_out: int, image: bool) -> None:
    samples: Any = SimpleNamespace(prompts=[f"prompt {n}" for n in range(prompts)])
    count = min(prompts, held_out) if image else prompts
    made: list[dict[int, str]] = []
    for rank in range(ranks):
        own = torch.utils.data.DistributedSampler(range(held_out), ranks, rank, shuffle=False)  # type: ignore[arg-type]
        frames = torch.tensor([float(n) for n in own]).view(-1, 1, 1, 1, 1)
        given = ([f"clip {n}" for n in own], GivenFrame(frames)) if image else None
        module: Any = SimpleNamespace(given=given)
        share = share_of_samples(module, samples, held_out, rank, ranks)
        assert len(share.numbers) == len(share.prompts) >= 1  # sharded weights need every rank
        assert (share.condition is not None) == image
        if share.condition is not None:
            assert [f"clip {int(x)}" for x in share.condition.latent.flatten()] == share.prompts
        made.append(dict(zip(share.numbers, share.prompts, strict=True)))
    assert of_first_ranks(made) == [f"{'clip' if image else 'prompt'} {n}" for n in range(count)]
