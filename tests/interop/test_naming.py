"""Names at full size: every key of the released files, on the meta device."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers.loaders.single_file_utils import convert_wan_vae_to_diffusers
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan

from wan_alpha.interop.naming import base_table, canonical, checkpoint_table
from wan_alpha.interop.official_vae import convert_vae
from wan_alpha.interop.wan_vae import base_from_wan, infer_config
from wan_alpha.models.alpha_vae import AdapterSpec, AlphaVAE

ORACLE = Path(__file__).parents[1] / "fixtures" / "oracle_vae"


def full_size_keys(name: str) -> dict[str, list[int]]:
    """Names and shapes of a released file: `wan21_vae` or `wan_alpha_vae`."""
    return json.loads((ORACLE / f"{name}_keys.json").read_text())


def meta(keys: dict[str, list[int]]) -> dict[str, torch.Tensor]:
    return {key: torch.empty(shape, device="meta") for key, shape in keys.items()}


@pytest.fixture(scope="module")
def wan21_full() -> AutoencoderKLWan:
    with torch.device("meta"):
        return AutoencoderKLWan()


def test_full_size_base_is_diffusers_default(wan21_full: AutoencoderKLWan) -> None:
    converted = base_from_wan(meta(full_size_keys("wan21_vae")))
    theirs, ours = wan21_full.state_dict(), converted.state_dict()
    assert {key: t.shape for key, t in ours.items()} == {key: t.shape for key, t in theirs.items()}
    defaults = {key: value for key, value in wan21_full.config.items() if not key.startswith("_")}
    assert {key: converted.config[key] for key in defaults} == defaults


def test_names_agree_with_diffusers_own_converter() -> None:
    keys = full_size_keys("wan21_vae")
    with torch.device("meta"):
        ours = base_table(AutoencoderKLWan().state_dict(), res_blocks=2)
    theirs = convert_wan_vae_to_diffusers({key: key for key in keys})
    assert {wan: name for name, wan in theirs.items()} == ours


def test_every_key_of_the_full_size_checkpoint_has_its_place(wan21_full: AutoencoderKLWan) -> None:
    keys = full_size_keys("wan_alpha_vae")
    base = wan21_full.state_dict()
    with torch.device("meta"):
        adapters = AlphaVAE(AutoencoderKLWan(), AdapterSpec(rank=128, merge_init="random")).adapter_state()
    table = checkpoint_table(base, adapters, res_blocks=2)
    assert {key for key, target in table.items() if target.kind != "spare"} == keys.keys()
    sources = {"adapter": adapters, "copy": base}
    shapes = {key: list(sources[table[key].kind][table[key].name].shape) for key in keys}
    assert shapes == keys
    trained = [target.name for target in table.values() if target.kind == "adapter"]
    assert sorted(trained) == sorted(adapters)


def test_convert_reads_sizes_from_full_size_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    # Values are not looked at on the meta device: only the comparison needs them.
    monkeypatch.setattr("wan_alpha.interop.official_vae._compare_copies", lambda *_: None)
    converted = convert_vae(meta(full_size_keys("wan21_vae")), meta(full_size_keys("wan_alpha_vae")))
    assert converted.spec == AdapterSpec(rank=128, lora_alpha=1.0, merge_init="random", residual_blocks=3)
    merge = sum(tensor.numel() for name, tensor in converted.tensors.items() if name.startswith("merge."))
    assert merge == 25_537_552  # the paper's merge block


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ("vae_fgr.decoder.conv1.conv3D.lora_A.weight", "vae_fgr.decoder.conv1.conv3D.lora_A.default.weight"),
        ("vae_fgr.decoder.conv1.conv3D.lora_B.mine.weight", "vae_fgr.decoder.conv1.conv3D.lora_B.default.weight"),
        ("pipe.vae_pha.decoder.middle.0.residual.0.gamma", "vae_pha.decoder.middle.0.residual.0.gamma"),
        ("model.pipe.middle.block.middle.0.residual.2.bias", "middle.block.middle.0.residual.2.bias"),
        ("vae_fgr.encoder.middle.0.residual.2.bias", "vae_fgr.encoder.middle.0.residual.2.bias"),
        ("pipe.dit.blocks.0.ffn.0.weight", "pipe.dit.blocks.0.ffn.0.weight"),
    ],
)
def test_canonical_names(found: str, expected: str) -> None:
    assert canonical(found) == expected


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("dim_mult", [[1, 2], [1, 2, 4, 8]])
def test_any_depth_is_inferred_and_named_without_clashes(depth: int, dim_mult: list[int]) -> None:
    temporal = [index % 2 == 1 for index in range(len(dim_mult) - 1)]
    with torch.device("meta"):
        vae = AutoencoderKLWan(
            base_dim=4, z_dim=6, dim_mult=dim_mult, num_res_blocks=depth, temperal_downsample=temporal,
            latents_mean=[0.0] * 6, latents_std=[1.0] * 6,
        )  # fmt: skip
    state = vae.state_dict()
    table = base_table(state, depth)
    assert len(table) == len(state)
    weights = {wan: state[name] for wan, name in table.items()}
    config = infer_config(weights)
    assert (config["base_dim"], config["z_dim"], config["dim_mult"]) == (4, 6, dim_mult)
    assert (config["num_res_blocks"], config["temperal_downsample"]) == (depth, temporal)
    assert base_from_wan(weights).state_dict().keys() == state.keys()
