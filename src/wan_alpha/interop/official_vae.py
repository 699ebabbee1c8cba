"""The authors' RGBA VAE checkpoint (`Wan-Alpha-VAE.bin`) -> a base and adapters, and back.

Their file holds the trained tensors (merge block, two decoder LoRAs) and, because it is the dump of a whole module,
copies of the base: the decoder and the post-quant convolution twice, the encoder once.  The copies must agree with the
base that is given; only the trained tensors become adapters.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from torch import Tensor

from wan_alpha.interop.naming import MERGE, Target, canonical, checkpoint_table, wan_name
from wan_alpha.interop.wan_vae import RELEASED_Z, base_from_wan, check_shapes
from wan_alpha.interop.weights import CheckpointError, few, read_weights
from wan_alpha.models.adapters import AdapterError, load_adapters, save_adapters
from wan_alpha.models.alpha_vae import AdapterSpec, AlphaVAE
from wan_alpha.models.base import load_vae

COPY_TOLERANCE = 1e-3  # largest difference between a copy and the base that still counts as the same weights
MERGE_DEPTH = 3
# Of a whole pipeline saved as one dict: everything under `pipe.` that is not the RGBA VAE.
_OTHER_MODELS = re.compile(r"^pipe\.(?!vae_|middle\.)")


@dataclass
class Report:
    """What became of the keys of the two files."""

    base_keys: int
    adapter_keys: int
    copies: int = 0
    largest_difference: float = 0.0
    differs_most: str = ""
    ignored: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Converted:
    """An RGBA VAE in our layout.

    Attributes:
        vae: the base.
        spec: shape of the adapters.
        tensors: the adapters by our names, in the precision of the file.
        report: what was read, compared and ignored.
    """

    vae: AutoencoderKLWan
    spec: AdapterSpec
    tensors: dict[str, Tensor]
    report: Report

    def save(self, out: str | Path) -> None:
        """Write `out`/base/vae and `out`/adapters."""
        self.vae.save_pretrained(Path(out) / "base" / "vae")
        save_adapters(Path(out) / "adapters", self.vae, asdict(self.spec), self.tensors)


def convert_vae(
    base: Mapping[str, Tensor],
    checkpoint: Mapping[str, Tensor],
    lora_alpha: float = 1.0,
    allow_other_base: bool = False,
) -> Converted:
    """The authors' checkpoint -> base and adapters.

    Args:
        base: Wan2.1's VAE in Wan's own names.
        checkpoint: the authors' flat dict; the name of the LoRA adapter may be absent or any, names may carry prefixes.
        lora_alpha: alpha of the LoRA, which no file records; the update is scaled by lora_alpha / rank (authors: 1.0).
        allow_other_base: accept a base whose weights differ from the copies in the checkpoint.

    Raises:
        CheckpointError: a key is missing or unknown, a shape does not fit, or the base is another one.
    """
    _check_lora_alpha(lora_alpha)
    vae = base_from_wan(base)
    named, ignored = _canonical_keys(checkpoint)
    spec = _infer_spec(named, lora_alpha)
    expected = _expected_adapters(vae, spec)
    weights = vae.state_dict()
    table = checkpoint_table(weights, expected, vae.config["num_res_blocks"])
    report = Report(len(base), len(expected), ignored=ignored)
    _check_keys(named, table, report)
    targets = {key: (expected if t.kind == "adapter" else weights)[t.name] for key, t in table.items() if key in named}
    check_shapes(targets, named, "the checkpoint")
    _compare_copies({key: target for key, target in targets.items() if table[key].kind != "adapter"}, named, report)
    _check_base(report, allow_other_base)
    if vae.config["z_dim"] != RELEASED_Z:
        report.notes.append(
            f"the latent has {vae.config['z_dim']} channels, Wan2.1's statistics {RELEASED_Z}: config.json of the base "
            "says mean 0 and std 1; fill in the real ones before training a DiT on it"
        )
    tensors = {target.name: named[key] for key, target in table.items() if target.kind == "adapter"}
    return Converted(vae, spec, tensors, report)


def load_rgba_vae(base: str | Path, adapters: Path | None, dtype: torch.dtype = torch.float32) -> AlphaVAE:
    """`AlphaVAE.from_pretrained`, which also takes the authors' file (`Wan-Alpha-VAE.bin`) as adapters.

    Raises:
        BaseError, AdapterError: not found, damaged, or do not fit together.
    """
    if adapters is None or not adapters.is_file():
        return AlphaVAE.from_pretrained(base, adapters, dtype=dtype)
    vae = load_vae(base)
    weights = {wan_name(name, vae.config["num_res_blocks"]): tensor for name, tensor in vae.state_dict().items()}
    try:
        converted = convert_vae(weights, read_weights(adapters))
    except CheckpointError as error:
        raise AdapterError(f"adapters: {adapters}: {error}") from error
    model = AlphaVAE(vae, converted.spec)
    model.load_adapter_state(converted.tensors)
    return model.to(dtype).eval()


def export_vae(base: str | Path, adapters: str | Path, lora_alpha: float = 1.0) -> dict[str, Tensor]:
    """A base and adapters -> the authors' flat dict, complete with the copies of the base that their code expects.

    Args:
        base: as in `AlphaVAE.from_pretrained`; its weights are written in float32.
        adapters: likewise; their tensors are written in their own precision.
        lora_alpha: what the reader will assume (authors: 1.0). Adapters trained with another one get lora_B scaled, so
            that the product, and with it the model, stays the same.

    Raises:
        BaseError, AdapterError: not found, or do not fit together.
        CheckpointError: the authors' code cannot express this model.
    """
    _check_lora_alpha(lora_alpha)
    vae = load_vae(base)
    loaded = load_adapters(adapters, vae)
    _check_expressible(vae, loaded.spec["residual_blocks"])
    factor = loaded.spec["lora_alpha"] / lora_alpha
    trained = {
        name: t * factor if name.endswith(".lora_B") and factor != 1 else t for name, t in loaded.tensors.items()
    }
    weights = vae.state_dict()
    table = checkpoint_table(weights, trained, vae.config["num_res_blocks"])
    sources = {"adapter": trained, "copy": weights}
    return {key: sources[t.kind][t.name] for key, t in table.items() if t.kind != "spare"}


def _check_expressible(vae: AutoencoderKLWan, residual_blocks: int) -> None:
    """The authors' code builds Wan2.1's form of VAE and a merge block of three residual blocks, of any width."""
    config = vae.config
    differs = {
        "is_residual": config["is_residual"],
        "attn_scales": len(config["attn_scales"]) > 0,
        "patch_size": config["patch_size"] not in (None, 1),
        "decoder_base_dim": config["decoder_base_dim"] not in (None, config["base_dim"]),
    }
    beyond = [key for key, differing in differs.items() if differing]
    if beyond:
        given = ", ".join(f"{key} = {config[key]}" for key in beyond)
        raise CheckpointError(f"the authors' code knows only Wan2.1's form of VAE; this base has {given}")
    if residual_blocks != MERGE_DEPTH:
        raise CheckpointError(
            f"the authors' merge block has {MERGE_DEPTH} residual blocks, that of these adapters {residual_blocks}"
        )


def _check_lora_alpha(lora_alpha: float) -> None:
    if not lora_alpha > 0:
        raise CheckpointError(f"lora_alpha is {lora_alpha}; it must be positive (authors: 1.0)")


def _canonical_keys(checkpoint: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """The checkpoint by canonical names, and the keys that belong to other models."""
    named: dict[str, Tensor] = {}
    origin: dict[str, str] = {}
    ignored = []
    for key, tensor in checkpoint.items():
        name = canonical(key)
        if _OTHER_MODELS.match(name):
            ignored.append(key)
            continue
        if name in origin:
            raise CheckpointError(f"two keys of the checkpoint mean the same tensor: {origin[name]} and {key}")
        named[name], origin[name] = tensor, key
    return named, ignored


def _infer_spec(named: Mapping[str, Tensor], lora_alpha: float) -> AdapterSpec:
    """Rank and depth of the merge block from the tensors; whatever does not fit them is found later, by name."""
    ranks = {tensor.shape[0] for key, tensor in named.items() if key.endswith(".lora_A.default.weight")}
    if len(ranks) != 1:
        raise CheckpointError(
            f"the checkpoint has LoRA matrices of ranks {sorted(ranks)}; expected one rank for all"
            if ranks
            else f"no LoRA matrices (vae_fgr.decoder.*.lora_A.*) in the checkpoint; it holds {few(sorted(named))}"
        )
    block = re.compile(rf"{re.escape(MERGE)}\.middle\.(\d+)\.residual\.")
    residual = {match[1] for key in named if (match := block.match(key))}
    return AdapterSpec(ranks.pop(), lora_alpha, merge_init="random", residual_blocks=max(1, len(residual)))


def _expected_adapters(vae: AutoencoderKLWan, spec: AdapterSpec) -> dict[str, Tensor]:
    """Names and shapes of the adapters of `vae`, on the meta device: nothing is allocated."""
    with torch.device("meta"):
        model = AlphaVAE(AutoencoderKLWan(**vae.config), spec)
    return model.adapter_state()


def _check_keys(named: Mapping[str, Tensor], table: Mapping[str, Target], report: Report) -> None:
    """Every key is known; adapters are complete; the copies are complete or left out altogether."""
    unknown = sorted(named.keys() - table.keys())
    has_copies = any(table[key].kind != "adapter" for key in named.keys() & table.keys())
    required = {"adapter", "copy"} if has_copies else {"adapter"}
    missing = [key for key, target in table.items() if target.kind in required and key not in named]
    if missing or unknown:
        raise CheckpointError(f"the checkpoint is no Wan-Alpha VAE: missing {few(missing)}; unknown {few(unknown)}")
    if not has_copies:
        report.notes.append(
            "the checkpoint holds no copy of its base, so nothing shows that this base is the right one"
        )


def _compare_copies(copies: Mapping[str, Tensor], named: Mapping[str, Tensor], report: Report) -> None:
    """Count the copies and find the largest difference to the base; a NaN on either side is the largest there is."""
    for key, original in copies.items():
        difference = (named[key].float() - original.float()).abs().max().item()
        if difference > report.largest_difference or math.isnan(difference):
            report.largest_difference, report.differs_most = difference, key
        if math.isnan(difference):
            break
    report.copies = len(copies)


def _check_base(report: Report, allow_other_base: bool) -> None:
    # `not (a <= b)` is true for NaN.
    if not (report.largest_difference <= COPY_TOLERANCE or allow_other_base):
        raise CheckpointError(
            f"the base is not the one this checkpoint was trained on: {report.differs_most} differs by "
            f"{report.largest_difference:.3g} (at most {COPY_TOLERANCE:g} is accepted). Give the right base file, or "
            "--allow-other-base to combine them all the same"
        )
