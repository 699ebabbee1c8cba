"""What a step of each stage computes, and what its state is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from small_world import random_base, random_transformer
from torch import Tensor

from wan_alpha.losses.alpha import AlphaVAELoss
from wan_alpha.losses.diffusion_prior import DiffusionPrior
from wan_alpha.models.alpha_vae import AdapterSpec, AlphaVAE
from wan_alpha.models.base import load_vae
from wan_alpha.rendering import COLOURS, hard_render, soft_render
from wan_alpha.stages.base import BaseVAEModule
from wan_alpha.stages.stage import StageModule
from wan_alpha.stages.vae import AlphaVAEModule

LOSS = AlphaVAELoss(weights={"perceptual": 0.0})


def no_optimiser(parameters: Any) -> Any:
    return None


def batch(count: int = 3, first: int = 0) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(first)
    return {
        "rgb": torch.rand(count, 3, 5, 16, 16, generator=generator) * 2 - 1,
        "alpha": (torch.rand(count, 1, 5, 16, 16, generator=generator) * 1.4 - 0.2).clamp(0, 1),
        "background": COLOURS[[1, 2, 3][:count]],
        "canvas": COLOURS[[4, 5, 6][:count]],
        "index": torch.arange(first, first + count),
    }


def logged(module: StageModule, monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensor]:
    values: dict[str, Tensor] = {}
    monkeypatch.setattr(module, "log_step", values.update)
    return values


def alpha_vae() -> AlphaVAEModule:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vae = AlphaVAE(random_base("wan22"), AdapterSpec(2, 2.0, "random"))
        with torch.no_grad():
            for parameter in vae.adapter_parameters().values():
                parameter.add_(0.05 * torch.randn_like(parameter))
        return AlphaVAEModule(vae, LOSS, no_optimiser)


def test_a_step_of_stage_vae_is_the_paper_s_equation(monkeypatch: pytest.MonkeyPatch) -> None:
    module, b = alpha_vae(), batch()
    values = logged(module, monkeypatch)
    loss = module.training_step(b, 0)
    z = module.vae.encode(b["rgb"], b["alpha"], b["background"])  # hard render on the background, streamed
    rgb_hat, alpha_hat = module.vae.decode(z)
    expected, terms = LOSS(rgb_hat, alpha_hat, b["rgb"], b["alpha"], b["canvas"])
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
    assert values.keys() == {"loss"} | terms.keys()
    assert {"alpha/l1", "soft/l1", "hard/l1", "alpha/edge", "soft/edge", "hard/edge"} == set(terms)
    loss.backward()
    assert all(p.grad is not None and p.grad.any() for p in module.trainable().values())


def test_a_sparse_perceptual_loss_looks_at_other_frames_in_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    module, turns = alpha_vae(), []
    logged(module, monkeypatch)
    monkeypatch.setattr(module.loss, "forward", lambda *_, turn: turns.append(turn) or (torch.zeros(()), {}))
    for step in (0, 1, 5):
        monkeypatch.setattr(AlphaVAEModule, "global_step", step)
        module.training_step(batch(1), 0)
    assert turns == [0, 1, 5]


def test_what_a_baseline_adds_to_the_loss_is_weighted_and_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    def penalties(rgb: Tensor, alpha: Tensor, background: Tensor, z: Tensor) -> dict[str, tuple[Tensor, float]]:
        return {"offset": (rgb.mean() + 2 * alpha.mean() + 4 * background.mean() + 8 * z.mean(), 0.3)}

    module, b = alpha_vae(), batch()
    values = logged(module, monkeypatch)
    plain = module.training_step(b, 0)
    monkeypatch.setattr(module.vae, "penalties", penalties)
    loss = module.training_step(b, 0)
    z = module.vae.encode(b["rgb"], b["alpha"], b["background"])
    (value, weight), *_ = penalties(b["rgb"], b["alpha"], b["background"], z).values()
    torch.testing.assert_close(values["offset"], value, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(loss, plain + weight * value, rtol=1e-4, atol=1e-5)


def test_validation_of_stage_vae_is_the_reconstruction() -> None:
    module, b = alpha_vae(), batch()
    with torch.no_grad():
        found = module.validation_step(b, 0)
    rgb, alpha = module.vae.decode(module.vae.encode(b["rgb"], b["alpha"], b["background"]))
    torch.testing.assert_close(found["rgb"], rgb, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found["alpha"], alpha, rtol=1e-4, atol=1e-5)


def base_vae(kl_weight: float = 0.0, seed: int = 0) -> BaseVAEModule:
    return BaseVAEModule(random_base("wan22"), no_optimiser, kl_weight, seed)


def test_stage_base_shows_soft_hard_and_alpha_turn_about() -> None:
    b = batch(3, first=4)  # samples 4, 5, 6: the last is a multiple of three
    shown = base_vae().render(b)
    assert torch.equal(shown[0], soft_render(b["rgb"], b["alpha"], b["canvas"])[0])
    assert torch.equal(shown[1], hard_render(b["rgb"], b["alpha"], b["background"])[1])
    assert torch.equal(shown[2], (b["alpha"][2] * 2 - 1).expand(3, -1, -1, -1))


def test_a_step_of_stage_base_is_l1_plus_mse_plus_kl(monkeypatch: pytest.MonkeyPatch) -> None:
    b = batch()
    plain = base_vae()
    values = logged(plain, monkeypatch)
    loss = plain.training_step(b, 0)
    x = plain.render(b)
    with torch.no_grad():
        posterior = plain.vae.encode(x).latent_dist
        difference = plain.vae.decode(posterior.mean).sample - x  # clamped: the targets lie within anyway
    if difference.abs().max() < 1:  # nothing was clamped
        torch.testing.assert_close(loss, difference.abs().mean() + difference.square().mean(), rtol=1e-4, atol=1e-6)
    assert values["kl"] == 0
    noisy = base_vae(kl_weight=0.5)
    values = logged(noisy, monkeypatch)
    noisy.training_step(b, 0)
    assert values["kl"].item() == pytest.approx(posterior.kl().sum().item() / posterior.mean.numel(), rel=1e-4)
    assert values["loss"].item() == pytest.approx((values["l1"] + values["mse"] + 0.5 * values["kl"]).item(), rel=1e-6)


def test_the_noise_of_a_sample_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    like = torch.zeros(3, 4, 2, 2, 2)
    noise = base_vae()._noise(torch.tensor([5, 6, 7]), like)
    assert noise.std() == pytest.approx(1, abs=0.2)
    assert torch.equal(noise[1:2], base_vae()._noise(torch.tensor([6]), like[:1]))  # in whatever batch it comes
    assert not torch.equal(noise[0], noise[1])
    assert not torch.equal(noise, base_vae(seed=1)._noise(torch.tensor([5, 6, 7]), like))


def version_2() -> AlphaVAEModule:
    module, transformer = alpha_vae(), random_transformer(6)
    module.loss = AlphaVAELoss(perceptual={"every": 2, "frames_per_chunk": 4})
    module.prior = DiffusionPrior(transformer, torch.zeros(1, 8, transformer.config["text_dim"]), 4, 8, 6)
    return module


@pytest.mark.parametrize("make", [alpha_vae, version_2, lambda: base_vae(kl_weight=0.5)])
def test_a_step_does_not_wait_for_the_device(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a device that has no values, there is nothing to wait for: whoever reads one back, fails."""
    module = make().to("meta")
    logged(module, monkeypatch)
    loss = module.training_step(module.transfer_batch_to_device(batch(), torch.device("meta"), 0), 0)
    loss.backward()
    assert loss.device.type == "meta"


@pytest.mark.parametrize("make", [alpha_vae, base_vae])
def test_the_state_is_what_is_trained_and_goes_back_in(make: Any) -> None:
    module, other = make(), make()
    state = module.state_dict()
    assert state.keys() == module.trainable().keys()
    assert {id(p) for p in module.parameters() if p.requires_grad} == {id(p) for p in module.trainable().values()}
    changed = {name: t + 1 for name, t in state.items()}
    other.load_state_dict(changed)
    assert all(torch.equal(t, changed[name]) for name, t in other.state_dict().items())
    with pytest.raises(ValueError, match="other weights than this model"):
        other.load_state_dict({"something": torch.zeros(1)})


def test_exports_are_what_users_load(tmp_path: Path) -> None:
    base = base_vae()
    base.export(tmp_path, torch.float32)
    loaded = load_vae(tmp_path / "base")
    assert all(torch.equal(t, base.vae.state_dict()[n]) for n, t in loaded.state_dict().items())
    module = AlphaVAEModule(AlphaVAE(load_vae(tmp_path / "base"), AdapterSpec(2)), LOSS, no_optimiser)
    module.export(tmp_path, torch.float32)
    vae = AlphaVAE.from_pretrained(tmp_path / "base", tmp_path)
    assert all(torch.equal(t, module.trainable()[n]) for n, t in vae.adapter_state().items())
