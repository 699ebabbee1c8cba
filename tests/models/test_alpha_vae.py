"""AlphaVAE: both paths agree, what is trained, what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_world import random_base
from torch import Tensor

from wan_alpha.models import streaming
from wan_alpha.models.alpha_vae import AdapterSpec, AlphaVAE
from wan_alpha.models.base import BaseError, load_vae, locate_base

FORMS = ["wan21", "wan22"]


def model(form: str, dtype: torch.dtype = torch.float64, init: str = "random", checkpointing: bool = True) -> AlphaVAE:
    """A model whose adapters all have something to say."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        vae = AlphaVAE(random_base(form, dtype), AdapterSpec(2, 2.0, init), checkpointing).to(dtype)  # type: ignore[arg-type]
        with torch.no_grad():
            for parameter in vae.adapter_parameters().values():
                parameter.add_(0.05 * torch.randn_like(parameter))
    return vae


def clip(frames: int = 9, height: int = 16, width: int = 16, batch: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    rgb = torch.rand(batch, 3, frames, height, width, generator=generator, dtype=torch.float64) * 2 - 1
    alpha = torch.rand(batch, 1, frames, height, width, generator=generator, dtype=torch.float64) * 1.5 - 0.25
    return rgb, alpha.clamp(0, 1)


@settings(max_examples=5, deadline=None)
@given(form=st.sampled_from(FORMS), frames=st.sampled_from([1, 5, 9, 17]), height=st.integers(1, 2))
def test_streaming_equals_the_whole_clip(form: str, frames: int, height: int) -> None:
    vae = model(form)
    rgb, alpha = clip(frames, 8 * height, 16, batch=2)
    colours = torch.tensor([[1.0, -1.0, 1.0], [-1.0, 1.0, 1.0]])
    with torch.no_grad():
        z = vae.encode(rgb, alpha, colours, streaming=False)
        assert z.shape == (2, vae.base.config["z_dim"], 1 + (frames - 1) // 4, height, 2)
        torch.testing.assert_close(vae.encode(rgb, alpha, colours), z, rtol=0, atol=1e-11)
        whole = vae.decode(z, streaming=False)
        assert whole[0].shape == rgb.shape
        assert whole[1].shape == alpha.shape
        for streamed, expected in zip(vae.decode(z), whole, strict=True):
            torch.testing.assert_close(streamed, expected, rtol=0, atol=1e-11)
        assert not torch.allclose(whole[0].mean(1, keepdim=True), whole[1] * 2 - 1, atol=1e-3)


def test_each_sample_has_its_own_background() -> None:
    vae = model("wan22")
    rgb, alpha = clip(batch=2)
    red, blue = (1.0, -1.0, -1.0), (-1.0, -1.0, 1.0)
    both = vae.encode(rgb, alpha, torch.tensor([red, blue]))
    torch.testing.assert_close(both[:1], vae.encode(rgb[:1], alpha[:1], red), rtol=0, atol=1e-12)
    torch.testing.assert_close(both[1:], vae.encode(rgb[1:], alpha[1:], blue), rtol=0, atol=1e-12)
    assert not torch.allclose(both[1:], vae.encode(rgb[1:], alpha[1:], red), atol=1e-3)


def test_hidden_colour_does_not_reach_the_latent() -> None:
    vae = model("wan22")
    rgb, alpha = clip()
    hidden = torch.where(alpha > 0, rgb, torch.full_like(rgb, 0.123))
    assert torch.equal(vae.encode(rgb, alpha), vae.encode(hidden, alpha))


def test_the_future_changes_neither_latents_nor_frames() -> None:
    vae = model("wan22")
    rgb, alpha = clip(13)
    later = alpha.clone()
    later[:, :, 5:] = 1 - later[:, :, 5:]
    z, changed = vae.encode(rgb, alpha), vae.encode(rgb, later)
    torch.testing.assert_close(changed[:, :, :2], z[:, :, :2], rtol=0, atol=1e-13)
    assert (changed[:, :, 2:] - z[:, :, 2:]).abs().max() > 1e-4
    for before, after in zip(vae.decode(z), vae.decode(changed), strict=True):
        torch.testing.assert_close(after[:, :, :5], before[:, :, :5], rtol=0, atol=1e-13)
        assert (after[:, :, 5:] - before[:, :, 5:]).abs().max() > 1e-6


def test_streaming_carries_the_same_past_however_long_the_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    vae = model("wan21")
    caches: list[streaming.FeatureCache] = []

    class Watched(streaming.FeatureCache):
        def __init__(self, module: torch.nn.Module) -> None:
            super().__init__(module)
            caches.append(self)

    monkeypatch.setattr("wan_alpha.models.alpha_vae.FeatureCache", Watched)
    monkeypatch.setattr(streaming, "FeatureCache", Watched)
    carried = []
    for frames in (9, 33):
        caches.clear()
        vae.decode(vae.encode(*clip(frames)))
        tensors = [t for cache in caches for t in cache.features if isinstance(t, Tensor)]
        carried.append(sum(t.untyped_storage().nbytes() for t in tensors))
        assert len(caches) == 4  # encoder, merge block, two decoders
    assert carried[0] == carried[1] > 0


@pytest.mark.parametrize("form", FORMS)
def test_only_the_adapters_learn_and_checkpointing_changes_no_bit(form: str) -> None:
    rgb, alpha = (t.float() for t in clip(5, batch=2))
    found = []
    for checkpointing in (True, False):
        vae = model(form, torch.float32, checkpointing=checkpointing)
        frozen = {n: p.clone() for n, p in vae.base.named_parameters() if ".lora_" not in n}
        trained = vae.adapter_parameters()
        optimizer = torch.optim.SGD([p for p in vae.parameters() if p.requires_grad], 0.1)
        rgb_hat, alpha_hat = vae(rgb, alpha, torch.ones(2, 3))
        ((rgb_hat - rgb).square().mean() + (alpha_hat - alpha).square().mean()).backward()
        assert {id(p) for p in vae.parameters() if p.requires_grad} == {id(p) for p in trained.values()}
        for name, parameter in trained.items():
            assert parameter.grad is not None, name
            assert parameter.grad.abs().max() > 0, name
        optimizer.step()
        after = dict(vae.base.named_parameters())
        assert all(torch.equal(after[n], p) for n, p in frozen.items())
        found.append({n: p.grad for n, p in trained.items()})
    assert all(torch.equal(found[0][n], found[1][n]) for n in found[0])  # type: ignore[arg-type]


def test_names_of_what_is_trained() -> None:
    names = model("wan22").adapter_parameters()
    assert {n.split(".")[0] for n in names} == {"merge", "rgb", "alpha"}
    rgb = {n.removeprefix("rgb.") for n in names if n.startswith("rgb.")}
    alpha = {n.removeprefix("alpha.") for n in names if n.startswith("alpha.")}
    assert rgb == alpha
    assert {"conv_in.lora_A", "conv_in.lora_B"} <= rgb


def test_the_plain_base_is_found_underneath() -> None:
    base = random_base("wan22", torch.float64)
    rgb, _ = clip()
    with torch.no_grad():
        expected = base.decode(base.encode(rgb).latent_dist.mean).sample
        torch.testing.assert_close(model("wan22").base_roundtrip(rgb).clamp(-1, 1), expected, rtol=0, atol=1e-12)


def test_adapters_alone_are_trained_whatever_the_base_was() -> None:
    model = AlphaVAE(random_base("wan22").requires_grad_(True), AdapterSpec(rank=2))
    trained = {id(p) for p in model.parameters() if p.requires_grad}
    assert trained == {id(p) for p in model.adapter_parameters().values()}


def test_normalised_latents_use_the_base_s_statistics() -> None:
    vae = model("wan21")
    z = torch.randn(2, 4, 3, 2, 2, dtype=torch.float64)
    n = vae.normalize(z)
    torch.testing.assert_close(vae.denormalize(n), z, rtol=0, atol=1e-7)
    mean, std = (0.1, -0.2, 0.3, -0.4), (1.5, 0.5, 2.0, 1.0)
    for channel in range(4):
        expected = (z[:, channel] - mean[channel]) / std[channel]
        torch.testing.assert_close(n[:, channel], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("rgb", "alpha", "message"),
    [
        ((1, 3, 6, 16, 16), (1, 1, 6, 16, 16), r"6 frames; Wan takes 1 \+ 4k, for example 5"),
        ((1, 3, 4, 16, 16), (1, 1, 4, 16, 16), r"4 frames; Wan takes 1 \+ 4k, for example 5"),
        ((1, 3, 5, 16, 20), (1, 1, 5, 16, 20), r"16 x 20; this base takes multiples of 8, for example 16 x 16"),
        ((1, 3, 5, 12, 16), (1, 1, 5, 12, 16), r"12 x 16; this base takes multiples of 8, for example 16 x 16"),
        ((1, 3, 5, 16, 16), (1, 1, 5, 8, 16), r"same size; got rgb \(1, 3, 5, 16, 16\) and alpha \(1, 1, 5, 8, 16\)"),
        ((1, 3, 5, 16, 16), (1, 3, 5, 16, 16), r"alpha \(B, 1, T, H, W\)"),
        ((2, 3, 5, 16, 16), (1, 1, 5, 16, 16), r"of the same size"),
        ((3, 5, 16, 16), (1, 5, 16, 16), r"rgb must be \(B, 3, T, H, W\)"),
        ((0, 3, 5, 16, 16), (0, 1, 5, 16, 16), r"the clip is empty: got rgb \(0, 3, 5, 16, 16\)"),
        ((1, 3, 5, 0, 16), (1, 1, 5, 0, 16), r"the clip is empty: got rgb \(1, 3, 5, 0, 16\)"),
    ],
)
def test_clips_of_the_wrong_shape_are_refused(rgb: tuple[int, ...], alpha: tuple[int, ...], message: str) -> None:
    vae = model("wan22")
    for stream in (True, False):
        with pytest.raises(ValueError, match=message):
            vae.encode(torch.zeros(rgb), torch.zeros(alpha), streaming=stream)


@pytest.mark.parametrize("found", ["NoneType", "torch.uint8", "torch.bool"])
def test_an_absent_alpha_and_whole_numbers_are_refused(found: str) -> None:
    rgb, alpha = clip(5)
    given = None if found == "NoneType" else alpha.to(getattr(torch, found.removeprefix("torch.")))
    with pytest.raises(ValueError, match=rf"alpha is {found}; expected a tensor of floats, .* alpha in \[0, 1\]"):
        model("wan22").encode(rgb, given)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [-0.01, 1.01, 255.0, float("nan")])
def test_alpha_outside_its_range_is_refused_where_people_call(value: float) -> None:
    vae = model("wan22")
    rgb, alpha = clip(5)
    alpha[0, 0, 2, 3, 3] = value
    with pytest.raises(ValueError, match=rf"alpha lies in \[.*{value:g}.*\]; expected \[0, 1\]: divide 8-bit values"):
        vae.encode(rgb, alpha)
    vae.encode(rgb, alpha, streaming=False)  # a training step does not look at values: that would stall a GPU


@pytest.mark.parametrize("value", [-1.01, 1.01, 255.0, float("nan")])
def test_colours_outside_their_range_are_refused_where_people_call(value: float) -> None:
    vae = model("wan22")
    rgb, alpha = clip(5)
    with pytest.raises(
        ValueError, match=rf"background lies in \[.*{value:g}.*\]; expected \[-1, 1\]: map 8-bit values"
    ):
        vae.encode(rgb, alpha, background=(0.0, value, 1.0))
    rgb[0, 1, 2, 3, 3] = value
    with pytest.raises(ValueError, match=rf"rgb lies in \[.*{value:g}.*\]; expected \[-1, 1\]: map 8-bit values"):
        vae.encode(rgb, alpha)
    vae.encode(rgb, alpha, streaming=False)


@pytest.mark.parametrize("given", ["magenta", None, ("red", 0, 0), [[1.0], [0.0, 1.0]]])
def test_a_background_that_is_no_colour_is_refused(given: object) -> None:
    with pytest.raises(ValueError, match=r"background is .*; expected three numbers in \[-1, 1\]"):
        model("wan22").encode(*clip(5), background=given)  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(1, 16, 2, 2, 2), (1, 6, 2, 2), (6, 2, 2, 2), (1, 6, 0, 2, 2)])
def test_latents_of_another_base_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"this base takes a tensor \(B, 6, T', h, w\)"):
        model("wan22").decode(torch.zeros(shape))


def test_a_latent_that_is_no_tensor_is_refused() -> None:
    with pytest.raises(ValueError, match=r"a latent is list; this base takes a tensor"):
        model("wan22").decode([])  # type: ignore[arg-type]


def test_another_precision_than_the_weights_is_refused_where_people_call() -> None:
    vae, (rgb, alpha) = model("wan22", torch.float32), clip(5)
    with pytest.raises(ValueError, match=r"clip is torch.float64, the model torch.float32: convert it with .to\(torch"):
        vae.encode(rgb.float(), alpha)
    with pytest.raises(ValueError, match=r"latent is torch.float16, .* load the model with dtype=torch.float16"):
        vae.decode(torch.zeros(1, 6, 2, 2, 2, dtype=torch.float16))
    vae.encode(rgb.float(), alpha.bfloat16())  # together they are float32
    with torch.autocast("cpu", torch.bfloat16):
        vae.decode(vae.encode(rgb.float(), alpha.float()))


def test_a_background_of_the_wrong_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"colour of shape \(3,\) or \(1, 3\)"):
        model("wan22").encode(*clip(5), background=(1.0, 0.0))


def test_bases_are_found_by_path_and_others_refused(wan22: Path, tmp_path: Path) -> None:
    assert locate_base(wan22) == str(wan22)
    assert locate_base("wan2.1-14b") == "Wan-AI/Wan2.1-T2V-14B-Diffusers"
    assert locate_base("someone/their-wan") == "someone/their-wan"
    z = {where: load_vae(where).encoder.conv_in.weight for where in (wan22, wan22 / "vae")}
    assert torch.equal(z[wan22], z[wan22 / "vae"])
    assert not any(p.requires_grad for p in load_vae(wan22).parameters())
    assert load_vae(wan22, torch.bfloat16).dtype == torch.bfloat16
    with pytest.raises(BaseError, match=r"base 'wan3' is no known name \(tiny, wan2.1-1.3b, .*no existing path"):
        locate_base("wan3")
    with pytest.raises(BaseError, match=r"no Wan VAE at .*check the path"):
        load_vae(tmp_path)
    shutil.copytree(wan22, tmp_path / "other")
    config = tmp_path / "other" / "vae" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"z_dim": 8}))
    with pytest.raises(BaseError, match=r"safetensors is damaged, or does not fit the config.json beside it \(.*shape"):
        load_vae(tmp_path / "other")
    (tmp_path / "other" / "vae" / "diffusion_pytorch_model.safetensors").write_bytes(b"half a file")
    with pytest.raises(BaseError, match="is damaged, or does not fit"):
        load_vae(tmp_path / "other")
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae" / "config.json").write_text("{")
    with pytest.raises(BaseError, match="no Wan VAE at"):
        load_vae(tmp_path)
