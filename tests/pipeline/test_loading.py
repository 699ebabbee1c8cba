"""Loading a pipeline: adapters are folded in or stay apart, and what does not fit each other is refused."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from sample_video import FAST, agree, quiet
from small_world import random_dora, random_pipeline, random_vae_adapters

from wan_alpha import AlphaVAE, AlphaWanPipeline
from wan_alpha.interop.adapter_files import find_adapters
from wan_alpha.interop.weights import StoredWeights, write_weights
from wan_alpha.models.adapters import AdapterError
from wan_alpha.models.base import BaseError


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


# ----- merging -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stacked", [False, True])
def test_merged_equals_unmerged(small_base: Path, small_adapters: Path, distill: Path, stacked: bool) -> None:
    more = {"distill": distill} if stacked else {}
    merged = quiet(AlphaWanPipeline.from_pretrained(small_base, small_adapters, **more))
    apart = quiet(AlphaWanPipeline.from_pretrained(small_base, small_adapters, merge=False, **more))
    ours, theirs = (p("a parrot", **FAST, seed=1) for p in (merged, apart))
    agree(ours.rgb, theirs.rgb)
    agree(ours.alpha, theirs.alpha)
    base = WanTransformer3DModel.from_pretrained(small_base, subfolder="transformer")
    assert count(merged.transformer) == count(base) < count(apart.transformer)
    assert [n for n, _ in merged.transformer.named_modules()] == [n for n, _ in base.named_modules()]


def test_a_base_is_folded_as_it_is_stored_and_cast_afterwards(small_base: Path, small_adapters: Path) -> None:
    """In bf16 as in float32: rounding the base first would be rounding twice."""
    pipe = AlphaWanPipeline.from_pretrained(small_base, small_adapters, dtype=torch.bfloat16, vae_dtype=torch.bfloat16)
    exact = AlphaWanPipeline.from_pretrained(small_base, small_adapters)
    for mine, whole in ((pipe.transformer, exact.transformer), (pipe.vae.alpha_decoder, exact.vae.alpha_decoder)):
        weights = whole.state_dict()
        cast = {name: weight for name, weight in mine.state_dict().items() if weight.dtype == torch.bfloat16}
        assert len(cast) > 10
        for name, weight in cast.items():
            assert torch.equal(weight, weights[name].bfloat16()), name


def test_weights_in_several_files_are_found_by_the_index(small_base: Path, tmp_path: Path) -> None:
    model = WanTransformer3DModel.from_pretrained(small_base, subfolder="transformer")
    model.save_pretrained(tmp_path / "parts", max_shard_size="20KB")
    assert len(list((tmp_path / "parts").glob("*.safetensors"))) > 1
    stored = StoredWeights(tmp_path / "parts")
    assert stored.keys() == model.state_dict().keys()
    assert all(torch.equal(stored[name], weight) for name, weight in model.state_dict().items())
    assert len(StoredWeights(tmp_path)) == 0


def test_without_adapters_alpha_means_nothing_and_a_warning_says_so(
    small_base: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pipe = quiet(AlphaWanPipeline.from_pretrained(small_base, None))
    assert "no adapters of the VAE: what comes out as alpha is the brightness of the picture" in caplog.text
    video = pipe("a", **FAST, seed=0)
    brightness = (video.rgb.mean(1, keepdim=True) + 1) / 2
    assert (video.alpha - brightness).abs().mean() < 1e-3  # but for what is clamped


def test_every_adapter_matters(small_base: Path, small_adapters: Path, distill: Path, pipe: AlphaWanPipeline) -> None:
    """Else the tests above could pass with adapters that are dropped."""
    full = pipe("a parrot", **FAST)
    distilled = quiet(AlphaWanPipeline.from_pretrained(small_base, small_adapters, distill=distill))
    plain = quiet(AlphaWanPipeline.from_pretrained(small_base, [small_adapters.parent / small_adapters.name]))
    assert torch.equal(plain("a parrot", **FAST).rgb, full.rgb)
    sigmas = [1.0, 0.5]
    assert not torch.allclose(
        distilled("a", **FAST, sigmas=sigmas).rgb, pipe("a", **FAST, sigmas=sigmas).rgb, atol=1e-3
    )
    assert not torch.allclose(full.rgb.mean(1), full.alpha[:, 0] * 2 - 1, atol=1e-2)


def test_merged_decoders_are_those_of_the_unmerged_vae(
    small_base: Path, small_adapters: Path, pipe: AlphaWanPipeline
) -> None:
    vae = AlphaVAE.from_pretrained(small_base, small_adapters)
    z = torch.randn(1, 4, 3, 4, 6)
    rgb, alpha = vae.decode(z)
    ours = pipe.vae.decode(z)
    agree(ours[0], rgb.clamp(-1, 1), 1e-5)
    agree(ours[1], alpha.clamp(0, 1), 1e-5)
    shared = {id(p) for p in pipe.vae.alpha_vae.base.decoder.parameters()}
    own = [n for n, p in pipe.vae.alpha_decoder.named_parameters() if id(p) not in shared]
    assert own
    assert all(name.endswith("weight") for name in own)  # norms and biases are held once


def test_plain_diffusers_loras_go_on_top_of_a_merged_pipeline(
    small_base: Path, small_adapters: Path, distill: Path
) -> None:
    pipe = quiet(AlphaWanPipeline.from_pretrained(small_base, small_adapters))
    before = pipe("a", **FAST).rgb
    pipe.load_lora_weights(str(distill), adapter_name="style")
    assert not torch.allclose(pipe("a", **FAST).rgb, before, atol=1e-3)
    pipe.delete_adapters("style")
    agree(pipe("a", **FAST).rgb, before, 1e-6)


# ----- what does not fit ---------------------------------------------------------------------------------------------


def test_missing_bases_say_where_to_get_one_and_how_large_it_is(wan21: Path, tmp_path: Path) -> None:
    with pytest.raises(BaseError, match=r"has no transformer, text_encoder, tokenizer, scheduler.*hf download .*29 GB"):
        AlphaWanPipeline.from_pretrained(wan21, None)
    with pytest.raises(BaseError, match="no known name"):
        AlphaWanPipeline.from_pretrained(tmp_path / "nowhere", None)


def test_a_known_base_that_cannot_be_fetched_is_named_with_its_size(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(BaseError, match=r"'wan2\.1-14b', about 80 GB, cannot be loaded from Wan-AI/.*`hf download"):
        AlphaWanPipeline.from_pretrained("wan2.1-14b", None)
    assert "80 GB, is fetched from the hub" in caplog.text


def test_adapters_that_do_not_fit(small_base: Path, small_adapters: Path, tmp_path: Path) -> None:
    other = random_pipeline(tmp_path / "other", added_kv_proj_dim=24, image_dim=8)
    dora = random_dora(other, tmp_path / "dora.safetensors")
    assert AlphaWanPipeline.from_pretrained(small_base, [small_adapters, dora])  # extra image layers only
    with pytest.raises(AdapterError, match=r"does not exist; expected adapters\.json \(stage vae\) or "):
        AlphaWanPipeline.from_pretrained(small_base, tmp_path / "nowhere")
    with pytest.raises(AdapterError, match="holds neither"):
        AlphaWanPipeline.from_pretrained(small_base, tmp_path)
    with pytest.raises(AdapterError, match="do not fit the base"):
        AlphaWanPipeline.from_pretrained(small_base, [small_adapters, dora_of(tmp_path, small_base)])


def dora_of(tmp_path: Path, base: Path) -> Path:
    """A DoRA that speaks of a block that the small bases do not have."""
    out = random_dora(base, tmp_path / "deep.safetensors", prefix="")
    from safetensors.torch import load_file

    write_weights(out, {key.replace("blocks.1.", "blocks.7."): t for key, t in load_file(out).items()})
    return out


def test_a_run_of_stage_dit_brings_the_vae_adapters_it_was_trained_with(small_adapters: Path, tmp_path: Path) -> None:
    (tmp_path / "adapters").mkdir()
    (tmp_path / "adapters" / "pytorch_lora_weights.safetensors").touch()
    with pytest.raises(AdapterError, match="hold nothing for the VAE"):
        find_adapters(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model": {"vae_adapters": str(small_adapters)}}))
    found = find_adapters(tmp_path)
    assert found.vae == small_adapters
    assert found.dit == tmp_path / "adapters" / "pytorch_lora_weights.safetensors"
    assert find_adapters([small_adapters, tmp_path]).dit == found.dit


def test_without_dit_adapters_it_says_so(small_base: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    random_vae_adapters(small_base, tmp_path)
    with caplog.at_level(logging.WARNING):
        AlphaWanPipeline.from_pretrained(small_base, tmp_path)
    assert "no adapters of the DiT" in caplog.text
