"""The VAEs the project compares itself with: they start at the base, learn what they should, and keep their files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_dit_base import write_complete_base
from small_world import random_base
from torch import Tensor
from training.launch import small, train

from data_prep.encode import encode
from data_prep.encoder import Options
from wan_alpha.baselines import Sampling
from wan_alpha.baselines.four_channel import FourChannelSpec, FourChannelVAE, gaussian_kl
from wan_alpha.baselines.latent_offset import LatentOffsetSpec, LatentOffsetVAE
from wan_alpha.baselines.offset_networks import pad_colour
from wan_alpha.baselines.registry import Setting, UnknownSystemError, load_codec, load_generator
from wan_alpha.baselines.vae import BaselineVAE
from wan_alpha.baselines.wan_sampler import to_rgba
from wan_alpha.evaluating.generators import trained_pieces
from wan_alpha.lineage import described
from wan_alpha.losses.alpha import AlphaVAELoss
from wan_alpha.models.adapters import AdapterError
from wan_alpha.models.alpha_vae import AdapterSpec, AlphaVAE
from wan_alpha.models.base import load_vae
from wan_alpha.models.whole_clip import encode_features, latent_mean
from wan_alpha.rendering import COLOURS, hard_render
from wan_alpha.stages.vae import AlphaVAEModule

LOSS = AlphaVAELoss(weights={"perceptual": 0.0})
SPECS = {LatentOffsetVAE: LatentOffsetSpec(width=4), FourChannelVAE: FourChannelSpec(kl_weight=0.5)}
METHODS = list(SPECS)
FORMS = ["wan21", "wan22"]


def model(method: type[BaselineVAE], form: str = "wan22", disturb: float = 0.0, seed: int = 0) -> BaselineVAE:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        vae = method(random_base(form), SPECS[method], checkpointing=False)
        with torch.no_grad():
            for parameter in vae.adapter_parameters().values():
                parameter.add_(disturb * torch.randn_like(parameter))
    return vae


def batch(frames: int = 5, side: int = 16) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    return {
        "rgb": torch.rand(2, 3, frames, side, side, generator=generator) * 2 - 1,
        "alpha": (torch.rand(2, 1, frames, side, side, generator=generator) * 1.5 - 0.25).clamp(0, 1),
        "background": COLOURS[[1, 2]],
        "canvas": COLOURS[[4, 5]],
        "index": torch.arange(2),
    }


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("method", METHODS)
def test_each_starts_exactly_at_the_base_and_calls_everything_opaque(method: type[BaselineVAE], form: str) -> None:
    vae, b = model(method, form), batch(9)
    offset = method is LatentOffsetVAE
    seen = pad_colour(b["rgb"], b["alpha"]) if offset else hard_render(b["rgb"], b["alpha"], b["background"])
    with torch.no_grad():
        z = vae.encode(b["rgb"], b["alpha"], b["background"])
        rgb, alpha = vae.decode(z)
        torch.testing.assert_close(z, latent_mean(vae.base, encode_features(vae.base, seen)), rtol=0, atol=1e-6)
    torch.testing.assert_close(rgb, vae.base_roundtrip(seen), rtol=0, atol=1e-6)
    assert torch.equal(alpha, torch.ones_like(b["alpha"]))


@pytest.mark.parametrize("method", METHODS)
def test_a_trained_one_sees_alpha_and_no_hidden_colour(method: type[BaselineVAE]) -> None:
    vae, b = model(method, disturb=0.05), batch()
    with torch.no_grad():
        z = vae.encode(b["rgb"], b["alpha"], b["background"])
        hidden = torch.where(b["alpha"] > 0, b["rgb"], torch.full_like(b["rgb"], 0.123))
        assert torch.equal(z, vae.encode(hidden, b["alpha"], b["background"]))
        other = torch.where(b["alpha"] > 0, b["alpha"] * 0.5, b["alpha"])
        assert (z - vae.encode(b["rgb"], other, b["background"])).abs().max() > 1e-3


@pytest.mark.parametrize("method", METHODS)
def test_gradients_reach_what_is_trained_and_nothing_else(
    method: type[BaselineVAE], monkeypatch: pytest.MonkeyPatch
) -> None:
    vae, b = model(method, disturb=0.05), batch()
    module = AlphaVAEModule(vae, LOSS, lambda parameters: None)  # type: ignore[arg-type, return-value]
    logged: dict[str, Tensor] = {}
    monkeypatch.setattr(module, "log_step", logged.update)
    loss = module.training_step(b, 0)
    loss.backward()
    # Where only the variance is concerned nothing but the penalty gives a gradient; a bias under a norm may have none.
    missing = [n for n, p in vae.adapter_parameters().items() if p.grad is None or not p.grad.any()]
    assert missing == []
    assert all(p.grad is None for p in vae.base.parameters())
    name, weight = {"latent_offset": ("identity", 1.0), "four_channel": ("reference_kl", 0.5)}[vae.kind]
    plain, _ = LOSS(*vae(b["rgb"], b["alpha"], b["background"]), b["rgb"], b["alpha"], b["canvas"])
    assert logged[name] > 0
    torch.testing.assert_close(loss, plain + weight * logged[name], rtol=1e-4, atol=1e-5)


def test_the_identity_penalty_is_what_the_base_makes_of_the_latent() -> None:
    vae, b = model(LatentOffsetVAE), batch()
    z = vae.encode(b["rgb"], b["alpha"]) + 0.3
    padded = pad_colour(b["rgb"], b["alpha"])
    expected = (vae.decode(z)[0] - padded).square().mean()  # the correction is still zero
    for _ in range(2):  # with the decoding of the step, then without
        value, _ = vae.penalties(b["rgb"], b["alpha"], b["background"], z)["identity"]
        torch.testing.assert_close(value, expected)


def test_the_reference_divergence_is_zero_at_the_start_and_the_normal_one() -> None:
    vae, b = model(FourChannelVAE), batch()
    z = vae.encode(b["rgb"], b["alpha"], b["background"])
    start = vae.penalties(b["rgb"], b["alpha"], b["background"], z)["reference_kl"].value.detach()
    assert abs(float(start)) < 1e-6
    p = torch.distributions.Normal(torch.tensor([0.5, -1.0]), torch.tensor([0.7, 2.0]))
    q = torch.distributions.Normal(torch.tensor([0.0, 1.0]), torch.tensor([1.0, 0.5]))
    found = gaussian_kl(p.mean, 2 * p.stddev.log(), q.mean, 2 * q.stddev.log())
    torch.testing.assert_close(found, torch.distributions.kl_divergence(p, q).mean())


def test_padding_takes_the_nearest_visible_colour_and_leaves_visible_pixels() -> None:
    rgb, alpha = torch.full((1, 3, 2, 8, 8), 0.9), torch.zeros(1, 1, 2, 8, 8)
    rgb[:, :, 0, :, :2], rgb[:, :, 0, :, 6:] = -1.0, 0.5  # two visible stripes in frame 0, nothing in frame 1
    alpha[:, :, 0, :, :2] = alpha[:, :, 0, :, 6:] = 0.3
    padded = pad_colour(rgb, alpha)
    assert torch.equal(padded[:, :, 0, :, :2], rgb[:, :, 0, :, :2])
    assert (padded[:, :, 0, :, 2] < -0.4).all()
    assert (padded[:, :, 0, :, 5] > 0).all()
    assert torch.equal(padded[:, :, 1], torch.zeros(1, 3, 8, 8))


@pytest.mark.parametrize("method", METHODS)
def test_a_run_trains_exports_and_its_codec_gives_the_same(
    method: type[BaselineVAE], wan22: Path, clips: Path, tmp_path: Path
) -> None:
    chosen = {LatentOffsetVAE: ["model=layerdiffuse", "model.width=4"], FourChannelVAE: ["model=alphavae"]}[method]
    run = tmp_path / "run"
    arguments = [a for a in small(wan22, clips, run) if "model.lora" not in a]
    train(*arguments, *chosen, "trainer.max_steps=4")
    assert "val/alpha/psnr" in (run / "metrics.csv").read_text()
    vae, b = method.from_pretrained(wan22, run), batch()
    start = model(method).adapter_state()
    assert any((t - start[n]).abs().max() > 1e-4 for n, t in vae.adapter_state().items())
    codec = load_codec(str(wan22), str(run), torch.device("cpu"))
    with torch.no_grad():
        for found, expected in zip(codec.reconstruct(b["rgb"], b["alpha"], b["background"]),
                                   vae(b["rgb"], b["alpha"], b["background"]), strict=True):  # fmt: skip
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    vae.save_adapters(tmp_path / "again")
    again = method.from_pretrained(wan22, tmp_path / "again")
    assert all(torch.equal(t, again.adapter_state()[n]) for n, t in vae.adapter_state().items())


@pytest.mark.parametrize("method", METHODS)
def test_a_generator_is_trained_on_its_latents_and_shown_by_it(
    method: type[BaselineVAE], clips: Path, tmp_path: Path
) -> None:
    base, run, vae = write_complete_base(tmp_path / "base"), tmp_path / "run", model(method, disturb=0.05)
    vae.save_adapters(tmp_path / "vae")
    data = ["data=clips", f"data.root={clips}"]
    if method is LatentOffsetVAE:  # from latents that were stored before
        places = clips, tmp_path / "latents", str(base), str(tmp_path / "vae")
        encode(Options(*places, variants=1, height=16, width=16, val_clips=1))
        data = ["data=latents", f"data.root={tmp_path / 'latents'}", "model.captions=plain"]
    train(
        "stage=dit", "base=path", f"base.path={base}", *data, f"run_dir={run}",
        f"model.vae_adapters={tmp_path / 'vae'}", "data.size=[16,16]", "data.num_frames=5", "data.batch_size=2",
        "data.num_workers=0", "data.val_clips=1", "model.adapter.rank=2", "model.variants=1",
        "model.samples.prompts=[]", "optim.lr=0.01", "optim.warmup_steps=0", "trainer.precision=32-true",
        "trainer.threads=1", "trainer.max_steps=2", "trainer.val_every_n_steps=0", "callbacks.progress=false",
    )  # fmt: skip
    setting = Setting(str(base), Sampling(5, 16, 16, steps=2, guidance=2.0), torch.device("cpu"))
    generator: Any = load_generator(f"rgba_vae={run}", setting)
    z = generator.sampler.sample(generator.sampler.velocity_model("disc1"), 0)
    with torch.no_grad():
        rgb, alpha = vae.decode(vae.denormalize(z))
    assert np.array_equal(generator.generate("disc1", 0), to_rgba(rgb, alpha))
    plain = setting.sampler().transformer.state_dict()
    assert any(not torch.equal(t, plain[n]) for n, t in generator.sampler.transformer.state_dict().items())
    chain = json.loads((run / "lineage.json").read_text())
    assert described(trained_pieces(f"rgba_vae={run}"), [])["made"] == chain["made"]
    source = "latents" if method is LatentOffsetVAE else "data"
    assert [piece["kind"] for piece in chain["used"]] == [source, "vae-adapters"]
    with pytest.raises(UnknownSystemError, match="holds the VAE and the DoRA"):
        load_generator(f"rgba_vae={tmp_path / 'vae'}", setting)


def test_files_of_another_kind_are_refused_by_name(wan22: Path, tmp_path: Path) -> None:
    model(LatentOffsetVAE).save_adapters(tmp_path / "offset")
    AlphaVAE(load_vae(wan22), AdapterSpec(2, 2.0)).save_adapters(tmp_path / "ours")
    with pytest.raises(AdapterError, match="are of kind latent_offset; expected alpha_vae"):
        AlphaVAE.from_pretrained(wan22, tmp_path / "offset")
    with pytest.raises(AdapterError, match="are of kind alpha_vae; expected four_channel"):
        FourChannelVAE.from_pretrained(wan22, tmp_path / "ours")
    file = tmp_path / "ours" / "adapters.json"
    file.write_text(file.read_text().replace("alpha_vae", "beta_vae"))
    with pytest.raises(AdapterError, match="kind beta_vae; this version knows alpha_vae, latent_offset, four"):
        load_codec(str(wan22), str(tmp_path / "ours"), torch.device("cpu"))
    with pytest.raises(UnknownSystemError, match="found neither"):
        load_codec(str(wan22), str(tmp_path / "nothing"), torch.device("cpu"))
