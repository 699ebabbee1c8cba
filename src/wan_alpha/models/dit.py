"""Wan's diffusion transformer and scheduler: loading a base's, making small ones."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import DiffusionPipeline, UniPCMultistepScheduler
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from torch import nn

from wan_alpha.models.base import BaseError, locate_base
from wan_alpha.models.device import allow_variants, check_compiler

Expert = Literal["transformer", "transformer_2"]
"""Of a base that has two: `transformer` samples high noise, `transformer_2` low noise."""
AdapterKind = Literal["dora", "lora", "full"]
Quantisation = Literal["none", "fp8", "nf4"]


def load_transformer(
    base: str | Path,
    dtype: torch.dtype = torch.float32,
    quantise: Quantisation = "none",
    expert: Expert = "transformer",
) -> WanTransformer3DModel:
    """The base's transformer, frozen, in eval mode.

    Args:
        base: `tiny`, a known name, a hub id or a path in diffusers' pipeline layout (see `locate_base`).
        dtype: of the weights.
        expert: which of a base that has two.
        quantise: weights in `fp8` (torchao) or `nf4` (bitsandbytes, on a GPU only), computed with in `dtype`.

    Raises:
        BaseError: the base has no transformer, or it cannot be quantised here.
    """
    where = locate_base(base)
    subfolder = None if (Path(where) / "diffusion_pytorch_model.safetensors").exists() else expert
    try:
        options = {} if quantise == "none" else {"quantization_config": _quantisation(quantise, dtype)}
        transformer = WanTransformer3DModel.from_pretrained(where, subfolder=subfolder, dtype=dtype, **options)
    except OSError as error:
        hint = "a complete base has one" if Path(where).exists() else "no such folder, and no hub was reached"
        what = "Wan transformer" if expert == "transformer" else f"{expert}, the expert for low noise,"
        raise BaseError(f"no {what} at {where!r}: {hint} ({str(error).splitlines()[0]})") from error
    return transformer.requires_grad_(False).eval()


def _quantisation(kind: Quantisation, dtype: torch.dtype) -> Any:
    """diffusers' quantisation config, or a sentence about what is missing."""
    package = {"fp8": "torchao", "nf4": "bitsandbytes"}[kind]
    if kind == "nf4" and not torch.cuda.is_available():  # diffusers has it for accelerators alone
        raise BaseError(f"model.frozen.quantise={kind} needs a CUDA GPU and there is none here; set it to none")
    if find_spec(package) is None:
        raise BaseError(f"model.frozen.quantise={kind} needs {package}: pip install 'wan-alpha[quantise]'")
    if kind == "nf4":
        from diffusers import BitsAndBytesConfig

        return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)
    from diffusers import TorchAoConfig
    from torchao.quantization import Float8WeightOnlyConfig

    return TorchAoConfig(Float8WeightOnlyConfig())


def compile_blocks(transformer: WanTransformer3DModel) -> None:
    """Compile one block for all of them: seconds instead of the minutes a whole transformer takes.

    Raises:
        DeviceError: nothing here can compile.
    """
    check_compiler("model.frozen.compile")
    allow_variants()  # the first block and others, with and without gradients and padding, batches of one, buckets
    transformer.compile_repeated_blocks()


def load_scheduler(base: str | Path) -> UniPCMultistepScheduler:
    """The base's scheduler as UniPC for flows, which the paper samples with; the timestep shift is the base's."""
    config: Any = UniPCMultistepScheduler.load_config(locate_base(base), subfolder="scheduler")
    if "flow_shift" not in config and "shift" in config:  # of FlowMatchEuler and its kin
        return new_scheduler(float(config["shift"]))
    return UniPCMultistepScheduler.from_config(config)


def noise_range(base: str | Path, expert: Expert) -> tuple[float, float]:
    """Between which noise levels t a pipeline of this base samples with this expert: all, unless there are two.

    Raises:
        BaseError: the base's model_index.json does not say where its experts take turns.
    """
    index: Any
    try:
        index = DiffusionPipeline.load_config(locate_base(base))
    except OSError:  # a transformer without a pipeline around it
        index = {}
    boundary = index.get("boundary_ratio")
    if boundary is None:
        if expert == "transformer":
            return 0.0, 1.0
        raise BaseError(f"{base} has no boundary_ratio in its model_index.json, so there is nothing for {expert} to do")
    return (float(boundary), 1.0) if expert == "transformer" else (0.0, float(boundary))


def new_scheduler(flow_shift: float) -> UniPCMultistepScheduler:
    """UniPC as Wan's pipelines configure it."""
    return UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=flow_shift, num_train_timesteps=1000
    )


def new_transformer(architecture: dict[str, Any], z_dim: int, text_dim: int) -> WanTransformer3DModel:
    """A fresh transformer that starts as a steady function of its input.

    Wan pads prompts with some 500 zeros and attends to all of them: at a random start the words would have one part in
    fifty of the attention.  Queries therefore start with a common direction and keys of zeros against it, so that
    padding starts with little weight.  Residual branches start at zero where adaLN gates them.
    """
    transformer = WanTransformer3DModel(**architecture, in_channels=z_dim, out_channels=z_dim, text_dim=text_dim)
    with torch.no_grad():
        nn.init.zeros_(transformer.proj_out.weight)
        nn.init.zeros_(transformer.proj_out.bias)
        embedder: Any = transformer.condition_embedder.text_embedder
        nn.init.zeros_(embedder.linear_1.bias)
        nn.init.zeros_(embedder.linear_2.bias)
        for block in transformer.blocks:
            attention: Any = block.attn2
            direction = torch.randint(0, 2, attention.to_q.bias.shape).float() * 2 - 1
            attention.to_q.bias.copy_(0.5 * direction)
            attention.to_k.bias.copy_(-0.05 * direction)
            nn.init.zeros_(attention.to_v.bias)
    return transformer
