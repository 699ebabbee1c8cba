"""The authors' checkpoint gives the authors' numbers; what does not fit is refused by name; the way back is exact.

The recorded small model (tests/fixtures/oracle_vae/README.md) is put together again as its authors store it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.testing import assert_close

from wan_alpha.interop.official import main
from wan_alpha.interop.official_vae import convert_vae, export_vae
from wan_alpha.interop.weights import CheckpointError, read_weights, write_weights
from wan_alpha.models.alpha_vae import AdapterSpec, AlphaVAE
from wan_alpha.models.whole_clip import decode_clip, encode_features, latent_mean, run_plain
from wan_alpha.rendering import alpha_to_rgb, hard_render, rgb_to_alpha

ORACLE = Path(__file__).parents[1] / "fixtures" / "oracle_vae"
Weights = dict[str, Tensor]
LORA = "vae_pha.decoder.middle.1.to_qkv.lora_B.default.weight"


@pytest.fixture(scope="module")
def base_weights() -> Weights:
    """The base in Wan's own names; not to be written to."""
    return load_file(ORACLE / "base.safetensors")


@pytest.fixture(scope="module")
def checkpoint(base_weights: Weights) -> Weights:
    """The authors' flat dict with every copy of the base; not to be written to."""
    trained = load_file(ORACLE / "trained.safetensors")

    def tensor(key: str) -> Tensor:
        if key in trained:
            return trained[key]
        _, _, own = key.partition(".")  # vae_fgr. or vae_pha.
        return base_weights[own.replace(".conv3D", "").replace(".base_layer", "")]

    return {key: tensor(key) for key in json.loads((ORACLE / "wan_alpha_vae_keys.json").read_text())}


@pytest.fixture(scope="module")
def recorded() -> Weights:
    """Inputs and what the authors' code made of them."""
    return load_file(ORACLE / "recorded.safetensors")


@pytest.fixture(scope="module")
def files(base_weights: Weights, checkpoint: Weights, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The base and the checkpoint as files."""
    root = tmp_path_factory.mktemp("official")
    save_file(base_weights, root / "Wan2.1_VAE.safetensors")
    save_file({key: tensor.clone() for key, tensor in checkpoint.items()}, root / "Wan-Alpha-VAE.safetensors")
    return root / "Wan2.1_VAE.safetensors", root / "Wan-Alpha-VAE.safetensors"


@pytest.fixture(scope="module")
def converted(files: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of the command `vae`."""
    out = tmp_path_factory.mktemp("converted")
    assert main(["vae", "--base", str(files[0]), "--checkpoint", str(files[1]), "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def model(converted: Path) -> AlphaVAE:
    return AlphaVAE.from_pretrained(converted / "base", converted / "adapters")


def agree(ours: Tensor, theirs: Tensor, tolerance: float = 2e-5) -> None:
    assert_close(ours, theirs, rtol=0, atol=tolerance)


# ----- the authors' numbers ----------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("streaming", [True, False])
def test_latent_and_videos_are_the_authors(model: AlphaVAE, recorded: Weights, streaming: bool) -> None:
    z = model.encode(recorded["rgb"], recorded["alpha"], recorded["background"].flatten(), streaming=streaming)
    agree(z, recorded["latent"])
    rgb, alpha = model.decode(z, streaming=streaming)
    agree(rgb, recorded["recon_rgb"])
    agree(alpha, rgb_to_alpha(recorded["recon_alpha"]))


@torch.no_grad()
def test_intermediate_tensors_are_the_authors(model: AlphaVAE, recorded: Weights) -> None:
    hard = hard_render(recorded["rgb"], recorded["alpha"], recorded["background"].flatten())
    assert torch.equal(hard, recorded["hard_rgb"])
    agree(encode_features(model.base, hard), recorded["features_rgb"])
    agree(encode_features(model.base, alpha_to_rgb(recorded["alpha"])), recorded["features_alpha"])
    # All three channels of the alpha decoder, not only their mean.
    grey = decode_clip(model.base, recorded["latent"], model.adapters.runner("alpha", run_plain))
    agree(grey, recorded["recon_alpha"])


@torch.no_grad()
def test_plain_base_is_the_authors(model: AlphaVAE, converted: Path, recorded: Weights) -> None:
    agree(latent_mean(model.base, encode_features(model.base, recorded["rgb"])), recorded["base_latent_mean"])
    agree(model.base_roundtrip(recorded["rgb"]), recorded["base_recon"])
    # Plain diffusers opens the folder, too, and its own frame-by-frame path gives the same latent.
    plain = AutoencoderKLWan.from_pretrained(converted / "base", subfolder="vae")
    agree(plain.encode(recorded["rgb"]).latent_dist.mean, recorded["base_latent_mean"])
    agree(plain.decode(recorded["base_latent_mean"]).sample, recorded["base_recon"].clamp(-1, 1))


def test_scale_of_the_lora_matters_and_follows_the_option(
    base_weights: Weights, checkpoint: Weights, tmp_path: Path, recorded: Weights
) -> None:
    """lora_alpha 2 with half of B is the same model; lora_alpha 2 alone is another one."""
    halved = {key: t / 2 if ".lora_B." in key else t for key, t in checkpoint.items()}
    for name, weights in {"same": halved, "other": checkpoint}.items():
        convert_vae(base_weights, weights, lora_alpha=2.0).save(tmp_path / name)
        decoded, _ = AlphaVAE.from_pretrained(tmp_path / name / "base", tmp_path / name / "adapters").decode(
            recorded["latent"]
        )
        error = (decoded - recorded["recon_rgb"]).abs().max()
        assert error < 2e-5 if name == "same" else error > 1e-2


# ----- and back ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".bin", ".safetensors"])
def test_round_trip_is_bit_exact(converted: Path, checkpoint: Weights, tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f"Wan-Alpha-VAE{suffix}"
    base, adapters = str(converted / "base"), str(converted / "adapters")
    assert main(["vae-export", "--base", base, "--adapters", adapters, "--out", str(out)]) == 0
    exported = read_weights(out)
    assert exported.keys() == checkpoint.keys()
    assert all(torch.equal(exported[key], checkpoint[key]) for key in checkpoint)


def test_fresh_adapters_survive_the_trip_there_and_back(wan21: Path, tmp_path: Path) -> None:
    """Another depth, another z, another scale: the model that comes back computes the same."""
    ours = AlphaVAE.from_pretrained(wan21, spec=AdapterSpec(rank=2, lora_alpha=3.0, merge_init="random"))
    with torch.no_grad():
        for parameter in ours.adapter_parameters().values():
            parameter.normal_(std=0.2)
    ours.save_adapters(tmp_path / "adapters")
    flat = export_vae(wan21, tmp_path / "adapters")
    from_flat = {key.removeprefix("vae_fgr."): t for key, t in flat.items() if key.startswith("vae_fgr.")}
    wan_base = {
        key.replace(".conv3D", "").replace(".base_layer", ""): t for key, t in from_flat.items() if ".lora_" not in key
    }
    encoder, quant = ours.base.encoder, ours.base.quant_conv
    heads = {"encoder.head.0.gamma": encoder.norm_out.gamma, "encoder.head.2": encoder.conv_out, "conv1": quant}
    for key, module in heads.items():
        if isinstance(module, Tensor):
            wan_base[key] = module
        else:
            wan_base |= {f"{key}.weight": module.weight, f"{key}.bias": module.bias}
    back = convert_vae(wan_base, flat)
    assert "mean 0 and std 1" in back.report.notes[0]
    back.save(tmp_path / "back")
    theirs = AlphaVAE.from_pretrained(tmp_path / "back" / "base", tmp_path / "back" / "adapters")
    assert theirs.spec.lora_alpha == 1.0
    rgb, alpha = torch.rand(1, 3, 5, 16, 16) * 2 - 1, torch.rand(1, 1, 5, 16, 16)
    z = ours.encode(rgb, alpha)
    agree(theirs.encode(rgb, alpha), z, 0)
    for mine, other in zip(ours.decode(z), theirs.decode(z), strict=True):
        agree(other, mine, 1e-4 * mine.abs().max().item())


def test_export_refuses_what_the_authors_code_cannot_build(wan22: Path, wan21: Path, tmp_path: Path) -> None:
    AlphaVAE.from_pretrained(wan22, spec=AdapterSpec(rank=2)).save_adapters(tmp_path / "wan22")
    with pytest.raises(CheckpointError, match="is_residual = True, patch_size = 2"):
        export_vae(wan22, tmp_path / "wan22")
    AlphaVAE.from_pretrained(wan21, spec=AdapterSpec(rank=2, residual_blocks=2)).save_adapters(tmp_path / "short")
    with pytest.raises(CheckpointError, match="3 residual blocks, that of these adapters 2"):
        export_vae(wan21, tmp_path / "short")


# ----- other spellings of the same file ----------------------------------------------------------------------------


def _same_adapters(base: Weights, variant: Weights, checkpoint: Weights) -> None:
    expected, found = convert_vae(base, checkpoint), convert_vae(base, variant)
    assert found.spec == expected.spec
    assert found.tensors.keys() == expected.tensors.keys()
    assert all(torch.equal(found.tensors[name], tensor) for name, tensor in expected.tensors.items())


def test_adapter_name_absent_or_another(base_weights: Weights, checkpoint: Weights) -> None:
    for name in ("", ".rgb_lora"):
        variant = {key.replace(".default.", f"{name}."): t for key, t in checkpoint.items()}
        assert variant.keys() != checkpoint.keys()
        _same_adapters(base_weights, variant, checkpoint)


def test_prefix_and_other_models_of_a_pipeline(base_weights: Weights, checkpoint: Weights) -> None:
    variant = {f"pipe.{key}": tensor for key, tensor in checkpoint.items()}
    variant["pipe.dit.blocks.0.ffn.0.weight"] = torch.zeros(2)
    _same_adapters(base_weights, variant, checkpoint)
    assert convert_vae(base_weights, variant).report.ignored == ["pipe.dit.blocks.0.ffn.0.weight"]


def test_without_copies_of_the_base(base_weights: Weights, checkpoint: Weights) -> None:
    trained = {key: t for key, t in checkpoint.items() if ".lora_" in key or key.startswith("middle.")}
    _same_adapters(base_weights, trained, checkpoint)
    assert "no copy of its base" in convert_vae(base_weights, trained).report.notes[0]


def test_unused_parts_of_the_encoder_are_compared_too(base_weights: Weights, checkpoint: Weights) -> None:
    spare = {"vae_fgr.encoder.head.2.bias": base_weights["encoder.head.2.bias"]}
    assert convert_vae(base_weights, checkpoint | spare).report.copies == 298
    spare["vae_fgr.encoder.head.2.bias"] = spare["vae_fgr.encoder.head.2.bias"] + 1
    with pytest.raises(CheckpointError, match=r"encoder\.head\.2\.bias differs by 1 "):
        convert_vae(base_weights, checkpoint | spare)


# ----- what does not fit -------------------------------------------------------------------------------------------


def test_another_base_is_refused_unless_asked_for(base_weights: Weights, checkpoint: Weights) -> None:
    key = "decoder.upsamples.3.time_conv.weight"
    near, far = base_weights[key].clone(), base_weights[key].clone()
    near[0, 0, 0] += 5e-4
    far[0, 0, 0] += 0.25
    assert convert_vae(base_weights | {key: near}, checkpoint).report.largest_difference == pytest.approx(
        5e-4, rel=1e-2
    )
    other = base_weights | {key: far}
    with pytest.raises(CheckpointError, match=r"upsamples\.3\.time_conv.* differs by 0\.25 .*--allow-other-base"):
        convert_vae(other, checkpoint)
    kept = convert_vae(other, checkpoint, allow_other_base=True)
    assert torch.equal(kept.vae.decoder.up_blocks[0].upsamplers[0].time_conv.weight, far)


def test_nan_is_a_difference(base_weights: Weights, checkpoint: Weights) -> None:
    broken = base_weights | {"decoder.conv1.bias": torch.full_like(base_weights["decoder.conv1.bias"], float("nan"))}
    with pytest.raises(CheckpointError, match="differs by nan"):
        convert_vae(broken, checkpoint)


@pytest.mark.parametrize(
    "key",
    [LORA, "middle.block.head.2.bias", "vae_fgr.encoder.conv1.weight", "vae_pha.decoder.conv1.conv3D.base_layer.bias"],
)
def test_missing_key_is_named(base_weights: Weights, checkpoint: Weights, key: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        convert_vae(base_weights, {name: t for name, t in checkpoint.items() if name != key})
    assert f"missing 1 ({key}); unknown none" in str(caught.value)


def test_unknown_keys_are_counted_and_named(base_weights: Weights, checkpoint: Weights) -> None:
    extra = {f"vae_fgr.decoder.extra{number}.weight": torch.zeros(1) for number in range(5)}
    with pytest.raises(CheckpointError, match=r"unknown 5 \(vae_fgr\.decoder\.extra0\.weight, .*, \.\.\.\)"):
        convert_vae(base_weights, checkpoint | extra)


def test_shapes_ranks_and_twins(base_weights: Weights, checkpoint: Weights) -> None:
    transposed = checkpoint | {LORA: checkpoint[LORA].transpose(0, 1)}
    with pytest.raises(CheckpointError, match=r"to_qkv\.lora_B.* is \(4, 96, 1, 1\), expected \(96, 4, 1, 1\)"):
        convert_vae(base_weights, transposed)
    lora_a = LORA.replace("lora_B", "lora_A")
    with pytest.raises(CheckpointError, match=r"ranks \[3, 4\]"):
        convert_vae(base_weights, checkpoint | {lora_a: checkpoint[lora_a][:3]})
    with pytest.raises(CheckpointError, match=r"two keys .* mean the same tensor"):
        convert_vae(base_weights, checkpoint | {LORA.replace("default", "second"): checkpoint[LORA]})


def test_wrong_files_are_recognised(base_weights: Weights, checkpoint: Weights, converted: Path) -> None:
    with pytest.raises(CheckpointError, match="no LoRA matrices"):
        convert_vae(base_weights, base_weights)
    with pytest.raises(CheckpointError, match=r"no Wan2\.1 VAE: it has no encoder\.conv1\.weight"):
        convert_vae(checkpoint, checkpoint)
    diffusers_names = load_file(converted / "base" / "vae" / "diffusion_pytorch_model.safetensors")
    with pytest.raises(CheckpointError, match="diffusers' names already"):
        convert_vae(diffusers_names, checkpoint)
    with pytest.raises(CheckpointError, match=r"missing 1 \(decoder\.head\.0\.gamma\)"):
        convert_vae({key: t for key, t in base_weights.items() if key != "decoder.head.0.gamma"}, checkpoint)
    with pytest.raises(CheckpointError, match="lora_alpha is 0"):
        convert_vae(base_weights, checkpoint, lora_alpha=0)


# ----- the command -------------------------------------------------------------------------------------------------


def test_command_reads_torch_files_and_reports_every_key(
    base_weights: Weights, checkpoint: Weights, tmp_path: Path
) -> None:
    write_weights(tmp_path / "Wan2.1_VAE.pth", base_weights)
    write_weights(tmp_path / "Wan-Alpha-VAE.bin", checkpoint)
    command = [sys.executable, "-m", "wan_alpha.interop.official", "vae", "--base", "Wan2.1_VAE.pth"]
    command += ["--checkpoint", "Wan-Alpha-VAE.bin", "--out", "out"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    figures = {line.split("│")[1].strip(): int(line.split("│")[2]) for line in done.stdout.splitlines() if "│" in line}
    assert figures == {"base": 194, "checkpoint": 482, "- trained": 185, "- copies of the base": 297}
    description = json.loads((tmp_path / "out" / "adapters" / "adapters.json").read_text())
    assert (description["spec"]["rank"], description["spec"]["lora_alpha"]) == (4, 1.0)


def test_command_refuses_in_one_sentence_and_writes_nothing(
    files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"a": AdapterSpec()}, tmp_path / "evil.bin")
    command = [
        "vae",
        "--base",
        str(files[0]),
        "--checkpoint",
        str(tmp_path / "evil.bin"),
        "--out",
        str(tmp_path / "out"),
    ]
    assert main(command) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert "evil.bin holds more than tensors" in error
    assert not (tmp_path / "out").exists()


def test_command_does_not_replace_trained_adapters_unasked(
    files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    treasure = tmp_path / "adapters" / "adapters.safetensors"
    treasure.parent.mkdir()
    treasure.write_bytes(b"days of training")
    command = ["vae", "--base", str(files[0]), "--checkpoint", str(files[1]), "--out", str(tmp_path)]
    assert main(command) == 1
    assert "exists; give another --out, or --overwrite" in capsys.readouterr().err
    assert treasure.read_bytes() == b"days of training"
    assert main([*command, "--overwrite"]) == 0
    assert len(load_file(treasure)) == 185
