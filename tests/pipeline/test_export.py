"""A merged export gives plain diffusers the pipeline's own videos, and ComfyUI and the authors their own files."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLWan, WanPipeline
from safetensors.torch import load_file
from sample_video import SIZE
from small_world import random_dora, random_pipeline, random_vae_adapters
from torch.testing import assert_close

from wan_alpha.interop.dit_adapters import merge_dit_adapters, read_dit_adapter
from wan_alpha.interop.export import EXPORTS, main
from wan_alpha.interop.wan_dit import dit_from_wan
from wan_alpha.interop.wan_vae import base_from_wan
from wan_alpha.interop.weights import read_weights
from wan_alpha.pipeline.pipeline import AlphaWanPipeline


def exported(kind: str, base: Path, adapters: Path, out: Path, *more: str) -> Path:
    command = ["--format", kind, "--base", str(base), "--adapters", str(adapters), "--out", str(out)]
    assert main([*command, *more]) == 0
    return out


@torch.no_grad()
def test_plain_diffusers_makes_the_same_video(
    small_base: Path, small_adapters: Path, tmp_path: Path, pipe: AlphaWanPipeline
) -> None:
    out = exported("diffusers", small_base, small_adapters, tmp_path / "out")
    plain = WanPipeline.from_pretrained(out)
    alpha_vae = AutoencoderKLWan.from_pretrained(out, subfolder="vae_alpha")
    plain.set_progress_bar_config(disable=True)
    options = {**SIZE, "num_inference_steps": 2, "guidance_scale": 1.0}
    expected = pipe("a parrot", **options, seed=4)
    generator = torch.Generator().manual_seed(4)
    latents = plain("a parrot", **options, generator=generator, output_type="latent").frames
    z = pipe.vae.alpha_vae.denormalize(latents)
    assert_close(plain.vae.decode(z).sample, expected.rgb, rtol=0, atol=1e-4)
    channels = alpha_vae.decode(z).sample
    # diffusers clamps each of the three channels, we clamp their mean: equal where none of them overshoots.
    inside = (channels.abs() < 1).all(dim=1, keepdim=True)
    assert inside.float().mean() > 0.5
    alpha = (channels.mean(1, keepdim=True) + 1) / 2
    assert_close(alpha[inside], expected.alpha[inside], rtol=0, atol=1e-4)
    base = WanPipeline.from_pretrained(small_base)
    for part in ("transformer", "vae"):
        counts = [sum(p.numel() for p in getattr(p_, part).parameters()) for p_ in (plain, base)]
        assert counts[0] == counts[1]


def test_comfyui_files_are_in_wans_own_names(
    small_base: Path, small_adapters: Path, tmp_path: Path, pipe: AlphaWanPipeline
) -> None:
    out = exported("comfyui", small_base, small_adapters, tmp_path / "out")
    merged = dit_from_wan(load_file(out / "diffusion_models" / "wan_alpha.safetensors"), heads=2).state_dict()
    for name, tensor in pipe.transformer.state_dict().items():
        assert_close(merged[name], tensor, rtol=0, atol=1e-6)
    z = torch.randn(1, 4, 1, 4, 4)
    for name, decoder in (("rgb", pipe.vae.alpha_vae.base.decoder), ("alpha", pipe.vae.alpha_decoder)):
        vae = base_from_wan(load_file(out / "vae" / f"wan_alpha_{name}.safetensors"))
        x = vae.post_quant_conv(z)
        assert_close(vae.decoder(x), decoder(x), rtol=0, atol=1e-5)
    plain = WanPipeline.from_pretrained(small_base).transformer.state_dict()
    dora = read_dit_adapter(out / "loras" / "wan_alpha_dora.safetensors", plain)
    for name, tensor in merge_dit_adapters(plain, [(dora, 1.0)]).items():
        assert_close(tensor, merged[name], rtol=0, atol=1e-5)


def test_official_files_come_back(small_base: Path, small_adapters: Path, tmp_path: Path) -> None:
    out = exported("official", small_base, small_adapters, tmp_path / "out")
    theirs, ours = load_file(out / "t2v.safetensors"), load_file(small_adapters / "t2v.safetensors")
    assert {key.replace(".default.", ".") for key in theirs} == ours.keys()
    assert all(torch.equal(tensor, ours[key.replace(".default.", ".")]) for key, tensor in theirs.items())
    flat = read_weights(out / "Wan-Alpha-VAE.bin")
    assert any(key.startswith("vae_pha.decoder.") for key in flat)


@pytest.mark.parametrize("kind", ["diffusers", "comfyui", "official"])
def test_distillation_and_precision(
    kind: str, small_base: Path, small_adapters: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    distill = random_dora(small_base, tmp_path / "few.safetensors", 2, "diffusion_model.", magnitude=False, seed=9)
    more = ["--distill", str(distill), "--dtype", "bfloat16"]
    out = exported(kind, small_base, small_adapters, tmp_path / "out", *more)
    exact = AlphaWanPipeline.from_pretrained(small_base, small_adapters, distill=distill).transformer.state_dict()
    if kind == "official":
        assert "note: few.safetensors is left out" in capsys.readouterr().out
        dora = load_file(out / "t2v.safetensors")
        assert {tensor.dtype for tensor in dora.values()} == {torch.bfloat16}
        assert len(dora) == len(load_file(small_adapters / "t2v.safetensors"))
        return
    if kind == "diffusers":
        found = load_file(out / "transformer" / "diffusion_pytorch_model.safetensors")
        alpha = load_file(out / "vae_alpha" / "diffusion_pytorch_model.safetensors")
        assert {tensor.dtype for tensor in alpha.values()} == {torch.bfloat16}
    else:
        merged = load_file(out / "diffusion_models" / "wan_alpha.safetensors")
        assert {tensor.dtype for tensor in merged.values()} == {torch.bfloat16}
        found = dit_from_wan(merged, heads=2).state_dict()
    for name, weight in exact.items():
        assert torch.equal(found[name].bfloat16(), weight.bfloat16()), name


def test_wan22_bases_say_what_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = random_pipeline(tmp_path / "wan22", "wan22")
    adapters = tmp_path / "adapters"
    random_vae_adapters(base, adapters)
    random_dora(base, adapters / "t2v.safetensors")
    for kind in ("comfyui", "official"):
        out = exported(kind, base, adapters, tmp_path / kind)
        assert "note: the VAE is left out" in capsys.readouterr().out
        assert list(out.rglob("*.safetensors"))


def test_refusals_are_sentences(
    small_base: Path, small_adapters: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "mine").touch()
    dora = small_adapters / "t2v.safetensors"
    cases = [
        (["--base", str(small_base), "--adapters", "nowhere", "--out", str(tmp_path / "o")], "does not exist"),
        (["--base", str(small_base), "--out", str(tmp_path / "there")], "exists; give another --out"),
        (["--base", str(small_base), "--adapters", str(dora), "--out", str(tmp_path / "o")], "nothing for the VAE"),
        (["--base", "no-such-base", "--adapters", str(small_adapters), "--out", str(tmp_path / "o")], "no known name"),
    ]
    for (arguments, message), kind in itertools.product(cases, EXPORTS):
        assert main(["--format", kind, *arguments]) == 1
        assert message in capsys.readouterr().err
    assert not (tmp_path / "o").exists()
