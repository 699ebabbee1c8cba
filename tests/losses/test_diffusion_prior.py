"""Version 2's diffusion prior: its mask, its two branches, and its place in a step of stage=vae."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small_dit import random_dit
from small_world import random_base
from torch import Tensor, nn

from wan_alpha.losses.alpha import AlphaVAELoss
from wan_alpha.losses.diffusion_prior import DiffusionPrior, transparency_mask
from wan_alpha.losses.draws import draw
from wan_alpha.models.alpha_vae import AdapterSpec, AlphaVAE
from wan_alpha.rendering import COLOURS
from wan_alpha.stages.vae import AlphaVAEModule

LOSS = AlphaVAELoss(weights={"perceptual": 0.0})


def prior(ceiling: float = 2.0, z_dim: int = 4, **changes: Any) -> DiffusionPrior:
    dit = random_dit(in_channels=z_dim, out_channels=z_dim, **changes).requires_grad_(True)
    return DiffusionPrior(dit, torch.randn(1, 6, 10), 4, 8, z_dim, ceiling)


def alpha_of(opaque: bool, transparent: bool, glass: bool) -> Tensor:
    """(1, 1, 5, 8, 24): three cells side by side, in two latent frames."""
    alpha = torch.full((1, 1, 5, 8, 24), 0.4 if glass else 1.0)
    alpha[..., :8] = 1.0 if opaque else 0.4
    alpha[..., 8:16] = 0.0 if transparent else 0.4
    return alpha


def test_mask_of_opaque_transparent_glassy_and_mixed_cells() -> None:
    alpha = alpha_of(True, True, True)
    assert transparency_mask(alpha, 4, 8).tolist() == [[[[[1, -1, 0]], [[1, -1, 0]]]]]
    alpha[0, 0, 4, 3, 2] = 0.0  # one transparent pixel in the last frame: a mixed cell
    alpha[0, 0, 0, 0, 20] = 0.9999
    assert transparency_mask(alpha, 4, 8).tolist() == [[[[[1, -1, 0]], [[-1, -1, 0]]]]]


class Knows(nn.Module):
    """A transformer that knows the answer, and is off by `error` in every channel."""

    def __init__(self, velocity: Tensor, error: float) -> None:
        super().__init__()
        self.config, self.velocity, self.error = {"in_channels": velocity.shape[1]}, velocity, error
        self.asked: dict[str, Any] = {}

    def forward(self, **arguments: Any) -> tuple[Tensor]:
        self.asked = arguments
        return (self.velocity + self.error,)


@pytest.mark.parametrize("frames", [1, 5])
def test_value_by_hand(frames: int) -> None:
    z, noise = torch.randn(2, 1, 4, (frames + 3) // 4, 1, 3)
    for error, wanted in ((0.5, (0.25 - 0.25) / 3), (3.0, (9.0 - 2.0) / 3)):  # the push stops at 2, the pull does not
        made = DiffusionPrior(Knows(noise - z, error), torch.zeros(1, 6, 10), 4, 8, 4)
        loss, means = made(z, alpha_of(True, True, True)[:, :, :frames], torch.tensor([0.0]), noise)
        assert loss.item() == pytest.approx(wanted, abs=1e-5)
        assert means["prior/opaque"].item() == pytest.approx(error**2, abs=1e-4)
        assert means["prior/transparent"].item() == pytest.approx(error**2, abs=1e-4)


def test_noise_levels_are_shifted_and_keep_off_the_ends() -> None:
    u = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    inside = torch.tensor([0.001, 0.5, 0.999], dtype=torch.float64)
    torch.testing.assert_close(prior().noise_level(u), 5 * inside / (1 + 4 * inside), rtol=1e-12, atol=0)


def test_the_transformer_sees_the_noisy_latent_its_level_and_the_empty_prompt() -> None:
    z, noise = torch.randn(2, 2, 4, 2, 1, 3)
    knows, prompt = Knows(noise - z, 0.0), torch.randn(1, 6, 10)
    DiffusionPrior(knows, prompt, 4, 8, 4).error(z, noise, torch.tensor([0.25, 0.9]))
    noisy = torch.stack([0.25 * noise[0] + 0.75 * z[0], 0.9 * noise[1] + 0.1 * z[1]])
    torch.testing.assert_close(knows.asked["hidden_states"], noisy)
    torch.testing.assert_close(knows.asked["timestep"], torch.tensor([250.0, 900.0]))
    assert torch.equal(knows.asked["encoder_hidden_states"], prompt.repeat(2, 1, 1))


@pytest.mark.parametrize(("opaque", "transparent", "sign"), [(True, False, -1), (False, True, 1)])
def test_gradient_pulls_opaque_cells_and_pushes_transparent_ones(opaque: bool, transparent: bool, sign: int) -> None:
    torch.manual_seed(0)
    made = prior(ceiling=1e3)
    z, noise = torch.randn(1, 4, 2, 2, 6, requires_grad=True), torch.randn(1, 4, 2, 2, 6)
    alpha = alpha_of(opaque, transparent, True).repeat_interleave(2, dim=3).repeat_interleave(2, dim=4)
    u = torch.tensor([0.5])
    made(z, alpha, u, noise)[0].backward()
    assert z.grad is not None
    cells = transparency_mask(alpha, 4, 8).ne(0)
    t = made.noise_level(u)
    before = made.error(z.detach(), noise, t)[cells].mean()
    after = made.error(z.detach() - 0.5 * z.grad, noise, t)[cells].mean()
    assert (after - before) * sign > 0
    assert not any(p.requires_grad for p in made.parameters())


def test_a_push_beyond_the_ceiling_has_no_gradient() -> None:
    made = prior(ceiling=1e-6)
    z, noise = torch.randn(1, 4, 2, 2, 6, requires_grad=True), torch.randn(1, 4, 2, 2, 6)
    made(z, torch.zeros(1, 1, 5, 16, 48), torch.tensor([0.5]), noise)[0].backward()
    assert z.grad is not None
    assert not z.grad.any()


def test_a_transformer_of_another_latent_is_refused() -> None:
    with pytest.raises(ValueError, match="takes 4 channels, the VAE's latent has 6"):
        DiffusionPrior(random_dit(), torch.zeros(1, 6, 10), 4, 8, 6)


def test_a_step_adds_it_on_the_normalised_latent(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    vae = AlphaVAE(random_base("wan22"), AdapterSpec(2, 2.0, "random"))
    term = prior(z_dim=6)
    generator = torch.Generator().manual_seed(0)
    alpha = (torch.rand(2, 1, 5, 16, 16, generator=generator) * 3 - 1).clamp(0, 1)
    alpha[:, :, :, :8] = 1
    batch = {
        "rgb": torch.rand(2, 3, 5, 16, 16, generator=generator) * 2 - 1, "alpha": alpha,
        "background": COLOURS[[1, 2]], "canvas": COLOURS[[3, 4]], "index": torch.tensor([7, 8]),
    }  # fmt: skip
    losses = {}
    for name, extra in (("v1", None), ("v2", term)):
        module = AlphaVAEModule(vae, LOSS, lambda parameters: None, extra, 0.1, seed=5)  # type: ignore[arg-type, return-value]
        logged: dict[str, Tensor] = {}
        monkeypatch.setattr(module, "log_step", logged.update)
        losses[name] = module.training_step(batch, 0)
        assert ("prior" in logged) is (name == "v2")
        assert module.state_dict().keys() == vae.adapter_parameters().keys()
    z = vae.normalize(vae.encode(batch["rgb"], batch["alpha"], batch["background"], streaming=False))
    draws = draw(5, batch["index"], tuple(z.shape[1:]))
    own = term(z, alpha, draws.u, draws.noise)[0]
    torch.testing.assert_close(losses["v2"] - losses["v1"], 0.1 * own, rtol=1e-4, atol=1e-6)
    gradients = torch.autograd.grad(own, list(vae.merge.parameters()), allow_unused=True)
    assert sum(g is not None and bool(g.any()) for g in gradients) > 5
