"""Baselines that generate: alpha from attention, alpha by matting."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from evaluating.test_generators import run as evaluate
from small_dit import dit_inputs, random_dit
from small_dit_base import write_complete_base
from torch.nn import functional as F

from wan_alpha.baselines.alfie import AlfieGenerator, cut, trimap
from wan_alpha.baselines.attention_maps import record
from wan_alpha.baselines.interface import Sampling, UnknownSystemError
from wan_alpha.baselines.matting import MattingGenerator, colour_key, load_matting, unmix
from wan_alpha.baselines.registry import Setting, load_generator, sampling_with
from wan_alpha.baselines.transpixeler import PUBLISHED
from wan_alpha.baselines.wan_sampler import WanSampler
from wan_alpha.data.media import probe, read_frames
from wan_alpha.evaluating.record import RecordError
from wan_alpha.lineage import folder_piece
from wan_alpha.models.assets import asset
from wan_alpha.models.base import SizeError
from wan_alpha.pipeline.pipeline import AlphaWanPipeline

SAMPLING = Sampling(5, 32, 32, steps=2, guidance=2.0)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_complete_base(tmp_path_factory.mktemp("complete"), adapters=True)


def disc(side: int = 48, ground: tuple[int, int, int] = (20, 200, 30)) -> tuple[np.ndarray, np.ndarray]:
    """A red disc with a soft edge on a plain ground, two frames: pictures, and the true alpha."""
    y, x = np.mgrid[:side, :side]
    alpha = np.stack([np.clip(side / 4 - np.hypot(y - side / 2, x - side / 2 - t) + 0.5, 0, 1) for t in (0, 3)])
    colour = alpha[..., None] * np.array([210, 40, 60]) + (1 - alpha[..., None]) * np.array(ground)
    return np.rint(colour).astype(np.uint8), alpha.astype(np.float32)


def test_the_key_finds_a_disc_on_whatever_plain_ground_and_unmixes_its_edge() -> None:
    for ground in ((20, 200, 30), (240, 240, 235)):
        frames, alpha = disc(ground=ground)
        found = colour_key(frames)
        assert np.abs(found - alpha).mean() < 0.02
        rgba = unmix(frames, alpha)
        shown = alpha > 0.2
        assert np.abs(rgba[shown][:, :3].astype(int) - [210, 40, 60]).max() < 20
        assert not rgba[alpha == 0].any()


def test_the_same_seed_gives_the_same_video_and_the_pipeline_the_same_colours(base: Path) -> None:
    sampler = WanSampler(base, SAMPLING)
    seen = []
    generator = MattingGenerator(sampler, lambda frames: seen.append(frames) or np.ones(frames.shape[:3], np.float32),
                                 prompt="{prompt}, plain")  # fmt: skip
    first = generator.generate("disc1", 3)
    assert first.shape == (5, 32, 32, 4)
    assert first.dtype == np.uint8
    assert np.array_equal(first, generator.generate("disc1", 3))
    assert not np.array_equal(first, generator.generate("disc1", 4))
    assert not np.array_equal(first, generator.generate("a red parrot", 3))
    pipe = AlphaWanPipeline.from_pretrained(base, base / "adapters")
    pipe.set_progress_bar_config(disable=True)
    latents = pipe("disc1, plain", num_frames=5, height=32, width=32, num_inference_steps=2, guidance_scale=2.0, seed=3,
                   output_type="latent")  # fmt: skip
    ours = sampler.sample(sampler.velocity_model("disc1, plain"), 3)
    torch.testing.assert_close(ours, latents, rtol=1e-4, atol=1e-4)


def test_a_matting_of_the_wrong_shape_and_an_unknown_one_are_refused(base: Path) -> None:
    generator = MattingGenerator(WanSampler(base, SAMPLING), lambda frames: np.zeros((2, 3, 3), np.float32))
    with pytest.raises(UnknownSystemError, match=r"shape \(2, 3, 3\) for frames \(5, 32, 32, 3\)"):
        generator.generate("disc1", 0)
    assert load_matting("wan_alpha.baselines.matting:colour_key") is colour_key
    for name in ("nowhere:key", "wan_alpha.baselines.matting:nothing", "wan_alpha.baselines.matting:KEY_LOW"):
        with pytest.raises(UnknownSystemError, match="expected"):
            load_matting(name)


def test_recorded_maps_are_the_attention_itself_and_change_nothing() -> None:
    dit = random_dit(torch.float64)
    inputs = dit_inputs(dit, torch.float64)
    plain = dit(**inputs, return_dict=False)[0]
    maps = record(dit)
    maps.words = torch.tensor([0.0, 1, 1, 0, 0], dtype=torch.float64)
    assert torch.equal(dit(**inputs, return_dict=False)[0], plain)
    with pytest.raises(ValueError, match="no cross-attention"):
        _ = maps.crossing
    caught = []
    hooks = [b.attn2.register_forward_hook(lambda m, args, out: caught.append((m, *args[:2]))) for b in dit.blocks]
    maps.active = True
    assert torch.equal(dit(**inputs, return_dict=False)[0], plain)
    shares = []
    for attn, x, text in caught:
        q, k = attn.norm_q(attn.to_q(x)).unflatten(2, (2, -1)), attn.norm_k(attn.to_k(text)).unflatten(2, (2, -1))
        weights = torch.einsum("bnhd,bmhd->bhnm", q, k).div(q.shape[-1] ** 0.5).softmax(-1)
        shares.append(weights[..., 1:3].sum(-1).mean(1))
    torch.testing.assert_close(maps.crossing, torch.stack(shares).mean(0).float(), rtol=1e-4, atol=1e-5)
    assert maps.smoothed.shape == maps.crossing.shape
    # Smoothing is an average of the map's own values.
    assert shares[0].min() - 1e-6 <= maps.smoothed.min()
    assert maps.smoothed.max() <= shares[0].max() + 1e-6
    assert all(h.remove() is None for h in hooks)


def test_alfie_cuts_what_the_map_points_at() -> None:
    frames, alpha = disc()
    coarse = F.interpolate(F.avg_pool2d(torch.from_numpy(alpha)[:, None], 12), 48, mode="bilinear")[:, 0].numpy()
    threads = torch.get_num_threads()
    found = cut(frames, coarse / coarse.max())
    assert torch.get_num_threads() == threads  # pymatting's numba would leave another number
    assert np.abs(found - alpha).mean() < 0.03
    assert set(np.unique(trimap(frames[0], coarse[0] / coarse.max()))) == {0.0, 0.5, 1.0}
    assert not cut(frames, np.zeros_like(coarse)).any()


def test_alfie_records_the_user_s_words_late_in_sampling(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = AlfieGenerator(WanSampler(base, SAMPLING))
    words = generator.words("a red parrot")
    own = len(generator.sampler.text.tokenizer("a red parrot").input_ids) - 1  # without the end token
    assert words[:own].tolist() == [1.0] * own
    ground = len(generator.sampler.text.tokenizer("a red parrot on a green background").input_ids) - 1 - own
    assert words[own : own + ground].tolist() == [-1.0] * ground
    assert not words[own + ground :].any()
    seen: list[bool] = []
    look = generator.maps.look
    monkeypatch.setattr(generator.maps, "look", lambda *a: (seen.append(True), look(*a))[1])
    frames, subject = generator.frames_and_map("a red parrot", 0)
    assert frames.shape == (5, 32, 32, 3)
    assert subject.shape == (5, 32, 32)
    assert 0 <= subject.min() < subject.max() <= 1
    assert np.array_equal(subject[1], subject[4])  # one latent frame
    layers = 2 * len(generator.sampler.transformer.blocks)
    assert len(seen) == layers  # the first of two steps is noise; without the prompt nothing is recorded
    video = generator.generate("a red parrot", 0)
    assert video.shape == (5, 32, 32, 4)
    assert np.array_equal(video, generator.generate("a red parrot", 0))


def test_baselines_by_name_and_what_they_refuse(base: Path) -> None:
    setting = Setting(str(base), SAMPLING, torch.device("cpu"))
    assert isinstance(load_generator("matting=wan_alpha.baselines.matting:colour_key", setting), MattingGenerator)
    with pytest.raises(UnknownSystemError, match="no such baseline; there are matting, alfie"):
        load_generator("alfi", setting)
    with pytest.raises(UnknownSystemError, match="alfie takes nothing"):
        load_generator("alfie=3", setting)
    asked = replace(setting, asked={"steps": 7})
    assert sampling_with("transpixeler=a,b", asked) == replace(PUBLISHED, steps=7)  # of its own base
    assert sampling_with("matting", asked) == SAMPLING
    with pytest.raises(SizeError):
        load_generator("matting", Setting(str(base), Sampling(6, 32, 32), torch.device("cpu")))


def test_evaluation_makes_and_measures_the_videos_of_two_baselines(base: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.json"
    prompts.write_text('{"p1": "disc1", "p2": "a red parrot"}')
    command = [
        "base=path", f"base.path={base}", "generators.alfie=alfie", "generators.key=matting", "sampling.num_frames=5",
        "sampling.height=32", "sampling.width=32", "sampling.num_inference_steps=2",
    ]  # fmt: skip
    summary = evaluate(prompts, tmp_path / "out", *command)
    assert list(summary["systems"]) == ["alfie", "key"]
    made = summary["facts"]["generators"]["alfie"]
    assert (made["system"], made["seed"]) == ("alfie", 0)
    assert made["sampling"] == {"num_frames": 5, "height": 32, "width": 32, "steps": 2, "guidance": 5.0}
    assert summary["clips"] == ["p1", "p2"]
    videos = tmp_path / "out" / "videos"
    assert probe(videos / "key" / "p1.mkv").num_frames == 5
    before = (videos / "alfie" / "p2.mkv").stat().st_mtime_ns
    (videos / "key" / "p2.mkv").unlink()
    evaluate(prompts, tmp_path / "out", *command)  # only what is missing is made
    assert (videos / "alfie" / "p2.mkv").stat().st_mtime_ns == before
    assert (videos / "key" / "p2.mkv").exists()
    with pytest.raises(RecordError, match=r"alfie holds videos that were made otherwise: sampling: .*'steps': 3"):
        evaluate(prompts, tmp_path / "out", *command, "sampling.num_inference_steps=3")


def test_ours_and_a_baseline_stand_side_by_side_on_the_shipped_base(tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.json"
    prompts.write_text('{"p1": "a parrot"}')
    command = ["base=tiny", "generators.ours=tiny", "generators.key=matting", "generators.same=rgba_vae=tiny"]
    command += [
        "sampling.num_frames=5",
        "sampling.height=32",
        "sampling.width=32",
        "sampling.num_inference_steps=1",
        "device=cpu",
    ]
    summary = evaluate(prompts, tmp_path / "out", *command)
    assert list(summary["systems"]) == ["ours", "key", "same"]
    videos = [read_frames(tmp_path / "out" / "videos" / name / "p1.mkv", count=5) for name in ("ours", "same")]
    assert np.abs(videos[0].astype(int) - videos[1]).max() <= 1  # the sampler of baselines is the pipeline's
    made = summary["facts"]["generators"]["ours"]  # what was not given, too
    assert (made["system"], made["steps"], made["guidance_scale"], made["seed"]) == ("tiny", 1, 5.0, 0)
    shipped = [folder_piece("vae-adapters", asset("tiny-adapters")), folder_piece("dit-adapters", asset("tiny-dora"))]
    used = json.loads((tmp_path / "out" / "lineage.json").read_text())["used"]
    assert used == [{"kind": p.kind, "name": p.name, "sha256": p.digest} for p in shipped]
    names = {name: facts.get("trained") for name, facts in summary["facts"]["generators"].items()}
    assert names == {"ours": [p.name for p in shipped], "key": None, "same": [p.name for p in shipped]}
