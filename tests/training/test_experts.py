"""A base with two experts, as Wan2.2-A14B: each is trained on its own noise levels, and generation uses both."""

from __future__ import annotations

import csv
import json
import logging
import re
import shutil
from pathlib import Path

import pytest
import torch
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from launch import train
from PIL import Image
from small_dit_base import write_complete_base, write_image_transformer
from test_dit_runs import small

from wan_alpha import AlphaWanPipeline
from wan_alpha.interop.adapter_files import find_adapters
from wan_alpha.models.adapters import AdapterError
from wan_alpha.models.base import BaseError
from wan_alpha.models.dit import noise_range
from wan_alpha.models.dit_adapters import load_dit_adapters, merge_dit_adapters

BOUNDARY = 0.875
SIZE = {"num_frames": 5, "height": 32, "width": 32, "num_inference_steps": 4, "guidance_scale": 1.0}
TASK = ["model.task=i2v", "model.variants=0", "trainer.max_steps=4", "trainer.val_every_n_steps=4", "seed=1"]
LOW = "model.validation_timesteps=[0.2,0.8]"
HIGH = "model.validation_timesteps=[0.9,0.95]"


def write_two_experts(root: Path) -> Path:
    """An image-to-video base whose second transformer takes over below t = 0.875."""
    write_image_transformer(write_complete_base(root, adapters=True))
    second = WanTransformer3DModel.from_pretrained(root / "transformer")
    with torch.no_grad():
        for parameter in second.parameters():
            parameter.mul_(0.9)
    second.save_pretrained(root / "transformer_2")
    index = json.loads((root / "model_index.json").read_text())
    index |= {"transformer_2": ["diffusers", "WanTransformer3DModel"], "boundary_ratio": BOUNDARY}
    (root / "model_index.json").write_text(json.dumps(index))
    return root


@pytest.fixture(scope="module")
def runs(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The base, and a run for each expert."""
    root = tmp_path_factory.mktemp("experts")
    base = write_two_experts(root / "base")
    for name, levels in (("transformer", HIGH), ("transformer_2", LOW)):
        train(*small(base, clips, root / name, *TASK, f"model.expert={name}", levels))
    return {name: root / name for name in ("base", "transformer", "transformer_2")}


def quiet(base: Path, *places: Path, merge: bool = True) -> AlphaWanPipeline:
    pipe = AlphaWanPipeline.from_pretrained(base, list(places), merge=merge)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_each_expert_sees_its_own_noise_levels(runs: dict[str, Path]) -> None:
    assert noise_range(runs["base"], "transformer") == (BOUNDARY, 1.0)
    assert noise_range(runs["base"], "transformer_2") == (0.0, BOUNDARY)
    for name, expected in (("transformer", {"train/loss_t0.75-1"}), ("transformer_2", set())):
        with open(runs[name] / "metrics.csv", newline="") as file:
            seen = {k for row in csv.DictReader(file) for k, v in row.items() if k.startswith("train/loss_t") and v}
        assert seen
        assert not expected or seen == expected


def test_generation_uses_both_experts_with_the_adapters_of_each(
    runs: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    picture = Image.new("RGBA", (32, 32), (200, 40, 40, 128))
    with caplog.at_level(logging.WARNING):
        both = quiet(runs["base"], runs["transformer_2"], runs["transformer"])
    assert "other weights" not in caplog.text  # each was trained on its own expert
    for name in ("transformer", "transformer_2"):
        trained = WanTransformer3DModel.from_pretrained(runs["base"] / name)
        load_dit_adapters(trained, runs[name])
        merge_dit_adapters(trained)
        for key, weight in trained.state_dict().items():
            torch.testing.assert_close(getattr(both, name).state_dict()[key], weight, rtol=1e-4, atol=1e-5)
    video = both("disc1", image=picture, **SIZE)
    apart = quiet(runs["base"], runs["transformer"], runs["transformer_2"], merge=False)
    torch.testing.assert_close(apart("disc1", image=picture, **SIZE).rgb, video.rgb, rtol=0, atol=1e-4)
    calls = dict.fromkeys(("transformer", "transformer_2"), 0)
    for name in calls:
        getattr(both, name).register_forward_pre_hook(lambda *_, name=name: calls.update({name: calls[name] + 1}))
    both("disc1", image=picture, **SIZE)
    assert calls["transformer"] + calls["transformer_2"] == 4
    assert min(calls.values()) >= 1
    assert {"dit", "dit_2"} <= both.adapters.keys()


def test_an_expert_without_adapters_or_adapters_without_an_expert(
    runs: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        quiet(runs["base"], runs["transformer"])
    assert "no adapters of the DiT: transformer_2 is the plain base's" in caplog.text
    one = write_image_transformer(write_complete_base(tmp_path / "one"))
    with pytest.raises(AdapterError, match="is for transformer_2, a base's expert for low noise; this base has none"):
        quiet(one, runs["transformer_2"])
    for part in ("config.json", "diffusion_pytorch_model.safetensors"):
        shutil.copy(runs["base"] / "transformer_2" / part, one / "transformer")
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        quiet(one, runs["transformer"])
    assert re.search(
        "on a transformer with other weights in the same layout \\([0-9a-f]{16}, here [0-9a-f]{16}", caplog.text
    )
    first = find_adapters(runs["transformer"])
    with pytest.raises(AdapterError, match="distill= is for bases with one transformer"):
        AlphaWanPipeline.from_pretrained(runs["base"], runs["transformer"], distill=first.dit)
    with pytest.raises(BaseError, match=r"no boundary_ratio in its model_index.json"):
        noise_range(one, "transformer_2")


def test_noise_levels_of_the_other_expert_are_refused(runs: dict[str, Path], clips: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"validation_timesteps: 0.2 is not in \[0.875, 1\]"):
        train(*small(runs["base"], clips, tmp_path, *TASK, LOW))
