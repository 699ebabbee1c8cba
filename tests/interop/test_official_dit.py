"""The authors' DiT files give the authors' numbers, go out again in every spelling, and what does not fit is named.

The recorded small model: tests/fixtures/oracle_dit/README.md.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, WanPipeline
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from safetensors.torch import load_file, save_file
from small_world import random_base
from torch import Tensor
from torch.testing import assert_close

from wan_alpha.interop.dit_adapters import merge_dit_adapters, parse_dit_adapter, read_dit_adapter
from wan_alpha.interop.dit_formats import FORMATS, adapter_tensors
from wan_alpha.interop.official import main
from wan_alpha.interop.official_dit import load_dit
from wan_alpha.interop.wan_dit import build_dit, dit_from_wan, dit_to_wan
from wan_alpha.interop.weights import CheckpointError, read_weights, write_weights

ORACLE = Path(__file__).parents[1] / "fixtures" / "oracle_dit"
BASE, DORA, DISTILL = (ORACLE / f"{name}.safetensors" for name in ("wan_t2v", "t2v", "lightx2v_lora"))
Weights = dict[str, Tensor]
LAYER = "blocks.1.cross_attn.k"
OURS = "blocks.1.attn2.to_k"


@pytest.fixture(scope="module")
def recorded() -> Weights:
    return load_file(ORACLE / "recorded.safetensors")


@pytest.fixture(scope="module")
def base() -> WanTransformer3DModel:
    """Not to be written to."""
    return load_dit(BASE)


@pytest.fixture(scope="module")
def weights(base: WanTransformer3DModel) -> Weights:
    return base.state_dict()


@torch.no_grad()
def velocity(model: WanTransformer3DModel, recorded: Weights) -> Tensor:
    context = torch.nn.functional.pad(recorded["context"], (0, 0, 0, 5))[None]  # the authors pad with zeros to 16
    return model(recorded["latent"][None], recorded["timestep"], context, return_dict=False)[0][0]


def agree(ours: Tensor, theirs: Tensor, tolerance: float = 1e-5) -> None:
    assert_close(ours, theirs, rtol=0, atol=tolerance)


def _command(out: Path, *options: object) -> list[str]:
    return ["dit", "--base", str(BASE), *map(str, options), "--out", str(out)]


# ----- the authors' numbers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "options"),
    [
        ("velocity_base", ()),
        ("velocity_dora", ("--dora", DORA)),
        ("velocity_dora_lightx2v", ("--dora", DORA, "--distill", DISTILL)),
    ],
)
def test_merged_transformer_gives_the_authors_velocity(
    recorded: Weights, tmp_path: Path, key: str, options: tuple[object, ...]
) -> None:
    assert main(_command(tmp_path / "out", *options)) == 0
    model = WanTransformer3DModel.from_pretrained(tmp_path / "out")
    agree(velocity(model, recorded), recorded[key])
    assert sum(p.numel() for p in model.parameters()) == sum(t.numel() for t in load_file(BASE).values())


def test_the_three_velocities_differ_and_so_does_the_order(weights: Weights, base: WanTransformer3DModel) -> None:
    """Else the test above could pass with adapters that do nothing, or stacked the other way round."""
    recorded = load_file(ORACLE / "recorded.safetensors")
    for other in ("velocity_base", "velocity_dora"):
        assert (recorded["velocity_dora_lightx2v"] - recorded[other]).abs().max() > 1e-2
    dora, distill = (read_dit_adapter(path, weights) for path in (DORA, DISTILL))
    swapped = merge_dit_adapters(weights, [(distill, 1.0), (dora, 1.0)])
    wrong = velocity(build_dit(base.config, swapped), recorded)
    assert (wrong - recorded["velocity_dora_lightx2v"]).abs().max() > 1e-3


def test_every_key_of_the_released_dora_is_consumed() -> None:
    keys = json.loads((ORACLE / "wan_alpha_t2v_dora_keys.json").read_text())
    with torch.device("meta"):
        weights = WanTransformer3DModel().state_dict()  # the defaults are Wan2.1's 14B
        released = {key: torch.empty(shape) for key, shape in keys.items()}
    adapter = parse_dit_adapter(released, weights)
    assert (adapter.keys, len(adapter.layers), adapter.ranks, adapter.ignored) == (1200, 400, {32}, [])
    assert adapter_tensors(adapter, "official", weights)[0].keys() == keys.keys()


# ----- and back ------------------------------------------------------------------------------------------------------


def test_the_base_goes_back_to_wans_names_bit_for_bit(weights: Weights) -> None:
    theirs = load_file(BASE)
    ours = dit_to_wan(weights)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    under_prefix = {f"model.diffusion_model.{key}": tensor for key, tensor in theirs.items()}
    assert dit_from_wan(under_prefix, heads=2).state_dict().keys() == weights.keys()


@pytest.mark.parametrize("format", FORMATS)
def test_every_spelling_comes_back_as_the_same_adapter(
    tmp_path: Path, weights: Weights, format: str, base: WanTransformer3DModel, recorded: Weights
) -> None:
    out = tmp_path / "adapter.safetensors"
    command = ["dit-adapter", "--base", str(BASE), "--dora", str(DORA), "--format", format, "--out", str(out)]
    assert main(command) == 0
    back = read_dit_adapter(out, weights)
    merged = merge_dit_adapters(weights, [(back, 1.0)])
    agree(velocity(build_dit(base.config, merged), recorded), recorded["velocity_dora"])
    if format == "official":
        theirs, ours = load_file(DORA), load_file(out)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_comfyui_file_is_right_under_comfyuis_own_formula(weights: Weights) -> None:
    """ComfyUI takes (W + B·A)·dora_scale/||W||, with the norm of the base: V's norm must be in dora_scale."""
    adapter = read_dit_adapter(DORA, weights)
    tensors, _ = adapter_tensors(adapter, "comfyui", weights)
    expected = merge_dit_adapters(weights, [(adapter, 1.0)])
    down, up, scale = (
        tensors[f"diffusion_model.{LAYER}.{part}"] for part in ("lora_down.weight", "lora_up.weight", "dora_scale")
    )
    weight = weights[f"{OURS}.weight"]
    comfy = (weight + up @ down) * (scale / weight.norm(dim=1, keepdim=True))
    agree(comfy, expected[f"{OURS}.weight"], 1e-6)


def test_diffusers_loads_the_file_unchanged(tmp_path: Path, recorded: Weights) -> None:
    out = tmp_path / "pytorch_lora_weights.safetensors"
    main(["dit-adapter", "--base", str(BASE), "--dora", str(DORA), "--format", "diffusers", "--out", str(out)])
    vae: AutoencoderKLWan = random_base("wan21")
    scheduler = FlowMatchEulerDiscreteScheduler(shift=5.0)
    pipe = WanPipeline(None, None, vae, scheduler, load_dit(BASE))  # type: ignore[arg-type]
    pipe.load_lora_weights(tmp_path)
    agree(velocity(pipe.transformer, recorded), recorded["velocity_dora"])
    pipe.delete_adapters("default_0")
    agree(velocity(pipe.transformer, recorded), recorded["velocity_base"])


# ----- other spellings and further keys ------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "diffusion_model.", "base_model.model.", "transformer."])
@pytest.mark.parametrize("name", [".default.", ".", ".alpha_dora."])
def test_prefixes_and_adapter_names_do_not_matter(weights: Weights, prefix: str, name: str) -> None:
    variant = {prefix + key.replace(".default.", name): tensor for key, tensor in load_file(DORA).items()}
    found, expected = parse_dit_adapter(variant, weights), read_dit_adapter(DORA, weights)
    assert found.layers.keys() == expected.layers.keys()
    for module, update in expected.layers.items():
        other = found.layers[module]
        assert all(torch.equal(getattr(update, p), getattr(other, p)) for p in ("a", "b", "magnitude"))  # type: ignore[arg-type]


def test_alpha_from_the_file_the_header_or_the_option(tmp_path: Path, weights: Weights) -> None:
    key = f"diffusion_model.{LAYER}"
    lora = {f"{key}.lora_down.weight": torch.randn(4, 48), f"{key}.lora_up.weight": torch.randn(48, 4)}
    assert parse_dit_adapter(lora, weights).layers[OURS].scale == 1.0
    assert parse_dit_adapter(lora, weights, alpha=2.0).layers[OURS].scale == 0.5
    with_alpha = lora | {f"{key}.alpha": torch.tensor(8.0)}
    assert parse_dit_adapter(with_alpha, weights, alpha=2.0).layers[OURS].scale == 2.0
    header = {"lora_adapter_metadata": json.dumps({"transformer.lora_alpha": 1, "transformer.r": 4})}
    write_weights(tmp_path / "lora.safetensors", lora, header)
    assert read_dit_adapter(tmp_path / "lora.safetensors", weights).layers[OURS].scale == 0.25
    # A scale that a format cannot say is in B.
    exported, _ = adapter_tensors(parse_dit_adapter(with_alpha, weights), "official", weights)
    agree(exported[f"{LAYER}.lora_B.default.weight"], 2 * lora[f"{key}.lora_up.weight"])


def test_differences_of_weights_biases_and_modulations(weights: Weights) -> None:
    file = {
        "diffusion_model.blocks.0.self_attn.norm_q.diff": torch.full((48,), 0.5),
        "diffusion_model.blocks.0.norm3.diff_b": torch.full((48,), 0.25),
        "diffusion_model.blocks.0.diff_m": torch.full((6, 48), 2.0),
        "diffusion_model.head.diff_m": torch.full((1, 2, 48), 3.0),
        "diffusion_model.patch_embedding.diff_b": torch.full((48,), 4.0),
        "diffusion_model.head.head.diff": torch.full((64, 48), 5.0),
        "diffusion_model.patch_embedding.lora_down.weight": torch.randn(2, 16, 1, 2, 2),
        "diffusion_model.patch_embedding.lora_up.weight": torch.randn(48, 2, 1, 1, 1),
    }
    adapter = parse_dit_adapter(file, weights)
    merged = merge_dit_adapters(weights, [(adapter, 0.5)])
    added = {
        "blocks.0.attn1.norm_q.weight": 0.25,
        "blocks.0.norm2.bias": 0.125,
        "blocks.0.scale_shift_table": 1.0,
        "scale_shift_table": 1.5,
        "patch_embedding.bias": 2.0,
        "proj_out.weight": 2.5,
    }
    for name, by in added.items():
        agree(merged[name], weights[name] + by)
    kernel = torch.einsum(
        "or,rithw->oithw", file["diffusion_model.patch_embedding.lora_up.weight"].flatten(1),
        file["diffusion_model.patch_embedding.lora_down.weight"],
    )  # fmt: skip
    agree(merged["patch_embedding.weight"], weights["patch_embedding.weight"] + 0.5 * kernel)
    changed = {name for name in weights if not torch.equal(merged[name], weights[name])}
    assert changed == {*added, "patch_embedding.weight"}
    assert parse_dit_adapter(adapter_tensors(adapter, "comfyui", weights)[0], weights).layers.keys() == (
        adapter.layers.keys()
    )
    with pytest.raises(CheckpointError, match="knows LoRA and DoRA only; this adapter also adds to 6"):
        adapter_tensors(adapter, "official", weights)


def test_keys_for_the_image_prompt_are_reported_not_lost(weights: Weights) -> None:
    image = {"diffusion_model.blocks.0.cross_attn.k_img.lora_down.weight": torch.zeros(3, 48)}
    adapter = parse_dit_adapter(load_file(DISTILL) | image, weights)
    assert (adapter.keys, adapter.ignored) == (61, list(image))


def test_merging_is_in_float32_and_keeps_the_precision_of_the_base(weights: Weights) -> None:
    half = {name: tensor.bfloat16() for name, tensor in weights.items()}
    dora = read_dit_adapter(DORA, half)
    merged = merge_dit_adapters(half, [(dora, 1.0)])
    exact = merge_dit_adapters({name: tensor.float() for name, tensor in half.items()}, [(dora, 1.0)])
    assert all(torch.equal(tensor, exact[name].bfloat16()) for name, tensor in merged.items())


def test_strength_of_a_dora_scales_its_change(weights: Weights) -> None:
    dora = read_dit_adapter(DORA, weights)
    none, half, full = (merge_dit_adapters(weights, [(dora, s)])[f"{OURS}.weight"] for s in (0.0, 0.5, 1.0))
    agree(none, weights[f"{OURS}.weight"], 1e-6)
    agree(half, (none + full) / 2, 1e-6)


def test_an_image_to_video_transformer_goes_both_ways() -> None:
    config = {
        "num_attention_heads": 2, "attention_head_dim": 12, "in_channels": 36, "out_channels": 16, "text_dim": 8,
        "freq_dim": 16, "ffn_dim": 32, "num_layers": 2, "image_dim": 20, "added_kv_proj_dim": 24,
    }  # fmt: skip
    model = WanTransformer3DModel(**config)  # type: ignore[arg-type]
    theirs = dit_to_wan(model.state_dict())
    assert {"img_emb.proj.0.weight", "blocks.0.cross_attn.k_img.weight"} <= theirs.keys()
    back = dit_from_wan(theirs, heads=2)
    assert {key: back.config[key] for key in config} == config
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in back.state_dict().items())


# ----- what does not fit ---------------------------------------------------------------------------------------------


def test_what_does_not_fit_is_named(weights: Weights) -> None:
    dora = load_file(DORA)
    key = f"{LAYER}.lora_A.default.weight"
    cases: list[tuple[Weights, str]] = [
        (dora | {"blocks.7.self_attn.q.lora_A.weight": torch.zeros(4, 48)}, r"no layer of it.*1 \(blocks\.7\."),
        (dora | {"something.else": torch.zeros(1)}, r"1 \(something\.else\)"),
        (dora | {key: torch.zeros(4, 50)}, r"at blocks\.1\.attn2\.to_k: B·A is \(48, 4\)·\(4, 50\)"),
        ({k: t for k, t in dora.items() if k != key}, r"incomplete at blocks\.1\.attn2\.to_k"),
        (dora | {f"{LAYER}.lora_down.weight": torch.zeros(4, 48)}, "two keys mean the same tensor"),
        (dora | {"blocks.0.norm3.diff": torch.zeros(3)}, r"difference for weight is \(3,\), expected \(48,\)"),
        ({}, "no LoRA or DoRA matrices"),
    ]
    for file, message in cases:
        with pytest.raises(CheckpointError, match=message):
            parse_dit_adapter(file, weights)


def test_wrong_bases_are_recognised(tmp_path: Path, weights: Weights) -> None:
    theirs = load_file(BASE)
    with pytest.raises(CheckpointError, match="48 wide, and its number of attention heads"):
        dit_from_wan(theirs)
    with pytest.raises(CheckpointError, match="diffusers' names already"):
        dit_from_wan(weights)
    with pytest.raises(CheckpointError, match=r"no Wan transformer: it has no 4"):
        dit_from_wan({"a": torch.zeros(1)})
    with pytest.raises(CheckpointError, match=r"missing 1 \(blocks\.0\.norm3\.bias\); unknown none"):
        dit_from_wan({k: t for k, t in theirs.items() if k != "blocks.0.norm3.bias"}, heads=2)
    with pytest.raises(CheckpointError, match=r"no transformer in"):
        load_dit(tmp_path)


def test_command_refuses_in_one_sentence_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"a": torch.nn.Linear(1, 1)}, tmp_path / "evil.bin")
    assert main(_command(tmp_path / "out", "--dora", tmp_path / "evil.bin")) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert "evil.bin holds more than tensors" in error
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("precious")
    assert main(_command(tmp_path / "out")) == 1
    assert "exists; give another --out, or --overwrite" in capsys.readouterr().err


def test_command_reads_folders_and_torch_files(tmp_path: Path, recorded: Weights) -> None:
    """A folder of shards with Wan's config.json, a DoRA as a torch file, and the output as the next base."""
    theirs = load_file(BASE)
    release = tmp_path / "Wan2.1-T2V"
    release.mkdir()
    (release / "config.json").write_text(json.dumps({"num_heads": 2}))
    for number, part in enumerate((sorted(theirs)[:30], sorted(theirs)[30:])):
        save_file({key: theirs[key] for key in part}, release / f"diffusion_pytorch_model-{number}.safetensors")
    write_weights(tmp_path / "t2v.bin", read_weights(DORA))
    command = ["dit", "--base", str(release), "--dora", str(tmp_path / "t2v.bin"), "--out", str(tmp_path / "one")]
    assert main(command) == 0
    command = ["dit", "--base", str(tmp_path / "one"), "--distill", str(DISTILL), "--out", str(tmp_path / "two")]
    assert main(command) == 0
    model = WanTransformer3DModel.from_pretrained(tmp_path / "two")
    agree(velocity(model, recorded), recorded["velocity_dora_lightx2v"])
