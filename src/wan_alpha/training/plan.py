"""What a run is going to need, before anything is loaded: `python train.py ... plan=true`.

Weights, gradients, optimiser and average follow from the shapes in the base's configuration files.  Activations are
found by running the step on fake tensors, which have shapes and no numbers: what autograd keeps of the forward pass,
with checkpointing the inputs of all blocks and what one block keeps, and what comes and goes besides.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import CLIPVisionConfig, CLIPVisionModel, UMT5Config, UMT5EncoderModel

from wan_alpha.models.alpha_vae import AdapterSpec, AlphaVAE
from wan_alpha.models.base import BaseError, locate_base, spatial_stride, temporal_stride
from wan_alpha.models.dit_adapters import add_dit_adapters
from wan_alpha.models.text import MAX_TOKENS
from wan_alpha.training.config import AlphaDiTConfig, RunConfig
from wan_alpha.training.memory import LiveBytes, bytes_of, encoding_bytes, faked
from wan_alpha.training.precision import on_gpu, resolve_precision

WAN21_VAE: dict[str, Any] = {}  # diffusers' defaults are Wan2.1's
WAN22_VAE = {
    "base_dim": 160, "decoder_base_dim": 256, "z_dim": 48, "dim_mult": [1, 2, 4, 4], "num_res_blocks": 2,
    "temperal_downsample": [False, True, True], "is_residual": True, "patch_size": 2, "in_channels": 12,
    "out_channels": 12, "scale_factor_spatial": 16, "latents_mean": [0.0] * 48, "latents_std": [1.0] * 48,
}  # fmt: skip
WAN = {"text_dim": 4096, "attention_head_dim": 128}
KNOWN: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "wan2.1-1.3b": (WAN | {"num_attention_heads": 12, "ffn_dim": 8960, "num_layers": 30}, WAN21_VAE),
    "wan2.1-14b": (WAN | {"num_attention_heads": 40, "ffn_dim": 13824, "num_layers": 40}, WAN21_VAE),
    "wan2.2-5b": (
        WAN | {"num_attention_heads": 24, "ffn_dim": 14336, "num_layers": 30, "in_channels": 48, "out_channels": 48},
        WAN22_VAE,
    ),
}
UMT5_XXL = {
    "vocab_size": 256384, "d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24, "num_heads": 64,
    "feed_forward_proj": "gated-gelu",
}  # fmt: skip

QUANTISED = {"fp8": 1.0, "nf4": 0.56}  # bytes of a weight; nf4 with the scales of its blocks


@dataclass(frozen=True)
class StepShape:
    """A training step of the transformer: its batch of latents (B, z, T', h, w), text tokens, and how it is run."""

    latent: tuple[int, int, int, int, int]
    text_tokens: int
    rank: int
    kind: str = "dora"
    checkpointing: bool = False
    autocast: bool = False
    dtype: torch.dtype = torch.float32
    image_tokens: int = 0  # of CLIP, for image-to-video bases that attend to them
    gpu: bool = False  # norms as CUDA computes them, which keeps less


@dataclass
class Plan:
    """Bytes by part, and the FLOPs of one batch: forward and backward, without what checkpointing computes again.

    Attributes:
        apart: bytes among the parts that are never there together: in the backward pass a block's activations, or with
            checkpointing its input, go as its gradients come.
    """

    parts: dict[str, int] = field(default_factory=dict)
    flops: int = 0
    trained: int = 0
    unit: int = 0  # bytes of the weights of one block
    apart: int = 0

    @property
    def total(self) -> int:
        return sum(self.parts.values()) - self.apart


def plan_step(architecture: dict[str, Any], shape: StepShape) -> Plan:
    """What the transformer, its adapters and one step need: blocks are alike, so two small ones tell of all."""
    layers = int(architecture["num_layers"])
    one, two = (_sizes(architecture | {"num_layers": n}, shape) for n in (1, 2))
    frozen, trained, numbers, kept, inputs, transient = (
        a + (layers - 1) * (b - a) for a, b in zip(one, two, strict=True)
    )
    if shape.checkpointing:
        kept = inputs + two[3] - one[3]  # inputs of all blocks, and what one keeps
    weights = {"transformer": frozen, "adapters": trained} if shape.kind != "full" else {"transformer": trained}
    plan = Plan(weights, step_flops(architecture, shape), numbers, two[0] + two[1] - one[0] - one[1])
    plan.parts |= {"gradients": trained, "optimiser": 2 * trained, "average": trained}
    plan.parts |= {"activations": kept, "working space": transient}
    plan.apart = min(trained, (layers - 1) * (inputs if shape.checkpointing else kept) // layers)
    return plan


def _sizes(architecture: dict[str, Any], shape: StepShape) -> tuple[int, ...]:
    """Of a transformer: bytes frozen and trained, numbers trained, bytes kept for the backward pass without and with
    checkpointing, and bytes that come and go besides (without)."""
    with torch.device("meta"):
        transformer = WanTransformer3DModel(**architecture)
        transformer.to(shape.dtype)
        if shape.kind == "full":
            transformer.requires_grad_(True)
        else:
            lean = not shape.checkpointing
            add_dit_adapters(transformer, shape.rank, shape.rank, shape.kind, lean)  # type: ignore[arg-type]
    weights = bytes_of(transformer, trained=False), bytes_of(transformer, trained=True)
    numbers = sum(p.numel() for p in transformer.parameters() if p.requires_grad)
    mode = FakeTensorMode()
    faked(transformer, mode)
    with mode, flash_attention(), fused_norms() if shape.gpu else nullcontext():
        return (*weights, numbers, *_activations(transformer, architecture, shape))


def _activations(transformer: nn.Module, architecture: dict[str, Any], shape: StepShape) -> tuple[int, int, int]:
    """(bytes that autograd keeps, the same with checkpointing, bytes that come and go at most besides)."""
    b, z, t, h, w = shape.latent
    x = torch.randn(b, z, t, h, w, dtype=shape.dtype)
    text = torch.randn(b, shape.text_tokens, architecture["text_dim"], dtype=shape.dtype)
    timestep = torch.rand(b)
    image = (
        torch.randn(b, shape.image_tokens, architecture["image_dim"], dtype=shape.dtype) if shape.image_tokens else None
    )

    def run(backward: bool) -> tuple[int, int]:
        live = LiveBytes()
        with live, torch.autocast("cpu", torch.bfloat16, enabled=shape.autocast):
            loss = transformer(x, timestep, text, image, return_dict=False)[0].float().square().mean()
            kept = live.now
            if backward:
                loss.backward()
        return kept, live.peak - kept

    everything, transient = run(backward=True)
    transformer.enable_gradient_checkpointing()  # type: ignore[operator]
    inputs, _ = run(backward=False)
    return everything, inputs, transient


@contextmanager
def flash_attention() -> Iterator[None]:
    """Attention as the fused kernels do it: fake tensors would choose the one that keeps a matrix of all pairs."""

    def attention(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> Tensor:
        return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(query, key, value)[0]

    with patch("torch.nn.functional.scaled_dot_product_attention", attention):
        yield


class _FusedNorm(torch.autograd.Function):
    """What a norm in one kernel makes and keeps: its input, and one number of each row along `dim`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, dim: int, dtype: torch.dtype) -> Tensor:
        ctx.save_for_backward(x, weight, x.narrow(dim, 0, 1).to(torch.float32, copy=True))
        return torch.empty_like(x, dtype=dtype)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, _ = ctx.saved_tensors
        return torch.empty_like(x), torch.empty_like(weight) if ctx.needs_input_grad[1] else None, None, None


@contextmanager
def fused_norms() -> Iterator[None]:
    """RMS norms as one kernel computes them; as several operations, as on a CPU, they keep more.

    The transformer's are torch's, which CUDA has as a kernel and autocast in float32; the VAE's are `NormSilu`.
    """

    def rms_norm(x: Tensor, _: Any, weight: Tensor, *__: Any) -> Tensor:
        x = x.float() if torch.is_autocast_enabled("cpu") else x
        return _FusedNorm.apply(x, weight, -1, x.dtype)

    def norm_silu(x: Tensor, gain: Tensor, dtype: torch.dtype) -> Tensor:
        return _FusedNorm.apply(x, gain, 1, dtype)

    with patch("torch.nn.functional.rms_norm", rms_norm), patch("wan_alpha.models.norms._compiled", norm_silu):
        yield


def step_flops(architecture: dict[str, Any], shape: StepShape) -> int:
    """FLOPs of a forward and a backward pass, the matrix products alone.

    A frozen weight costs one product forward and one backward (no gradient of its own), attention 4·N·M·d forward and
    twice that backward, a low-rank pair three times its forward product.
    """
    a: dict[str, Any] = {"patch_size": (1, 2, 2)} | architecture
    b, _, t, h, w = shape.latent
    n = b * (t // a["patch_size"][0]) * (h // a["patch_size"][1]) * (w // a["patch_size"][2])
    m = b * (shape.text_tokens + shape.image_tokens)  # each has keys and values of its own weights, of equal shapes
    d, f = a["num_attention_heads"] * a["attention_head_dim"], a["ffn_dim"]
    passes = 3 if shape.kind == "full" else 2
    on_image, on_text = 6 * d * d + 2 * d * f, 2 * d * d
    # Text is an input: a frozen key or value projection of it has no backward product.
    dense = 2 * n * on_image * passes + 2 * m * on_text * (passes - 1)
    words = b * shape.text_tokens
    low = 0 if shape.kind == "full" else 2 * shape.rank * 3 * (n * (6 * 2 * d + 2 * (d + f)) + words * 2 * 2 * d)
    attention = 12 * d * (n * (n // b) + n * (m // b))
    return int(a["num_layers"]) * (dense + low + attention)


# ----- of a run -------------------------------------------------------------------------------------------------------


def plan_run(config: RunConfig) -> Plan:
    """The plan of a configured run, for each device, as if it were the only one.

    Raises:
        ConfigError: stage=base.
        BaseError: the shapes of the base are not known.
    """
    model = config.model
    if not isinstance(model, AlphaDiTConfig):
        from wan_alpha.training.plan_vae import plan_vae  # it needs this module's shapes

        return plan_vae(config)
    architecture, vae_config, text_config = shapes(config, model)
    dtype = getattr(torch, model.frozen.dtype)
    with torch.device("meta"):
        vae = AutoencoderKLWan(**vae_config)
        text = UMT5EncoderModel(UMT5Config(**text_config)).to(dtype)
        latent = _latent(config, vae)
        codec = AlphaVAE(vae, AdapterSpec(rank=128, merge_init="random")) if model.vae_adapters else vae
    z, channels = latent[1], 2 * latent[1] + temporal_stride(vae) if model.task == "i2v" else latent[1]
    architecture |= {"in_channels": channels, "out_channels": z, "text_dim": text.config.d_model}
    image_tokens, image_bytes = _image_encoder(config) if architecture.get("image_dim") else (0, 0)
    shape = StepShape(
        (latent[0], channels, *latent[2:]),
        32 if model.fold_padding and not image_tokens else MAX_TOKENS,
        model.adapter.rank,
        model.adapter.kind,
        config.trainer.activation_checkpointing,
        uses_autocast(config),
        dtype if model.adapter.kind != "full" else torch.float32,
        image_tokens,
        for_gpu(config),
    )
    plan = plan_step(architecture, shape)
    transformer = plan.parts.pop("transformer")
    if model.frozen.quantise != "none":
        transformer = int(transformer * QUANTISED[model.frozen.quantise] / dtype.itemsize)
    encoders = {"text encoder": bytes_of(text)} | ({"image encoder": image_bytes} if image_tokens else {})
    others = {name: 0 if model.frozen.text_on_cpu else size for name, size in encoders.items()}
    others["RGBA VAE"] = bytes_of(codec)
    plan.parts = {"transformer": transformer, **others, **plan.parts}
    plan.apart = plan.apart if config.trainer.accumulate_grad_batches == 1 else 0
    if config.data.kind != "latents" and not model.variants and isinstance(codec, AlphaVAE):
        step = plan.parts["activations"] + plan.parts["working space"]  # not there yet while a batch is encoded
        d = config.data
        plan.parts["encoding a batch"] = max(0, encoding_bytes(codec, d.batch_size, d.num_frames, *d.size) - step)
    return plan


def for_gpu(config: RunConfig) -> bool:
    """Whether the plan is one for GPUs, wherever it is made."""
    return on_gpu(config.trainer) or config.cluster.gpu is not None


def uses_autocast(config: RunConfig) -> bool:
    """Whether a step of this run computes in bf16."""
    return resolve_precision(config.trainer) != "32-true"


def _latent(config: RunConfig, vae: AutoencoderKLWan) -> tuple[int, int, int, int, int]:
    frames = 1 + (config.data.num_frames - 1) // temporal_stride(vae)
    height, width = (side // spatial_stride(vae) for side in config.data.size)
    return config.data.batch_size, int(vae.config["z_dim"]), frames, height, width


def vae_arguments(base: str) -> dict[str, Any]:
    """Arguments of a base's VAE, from its files or from what is known."""
    if base in KNOWN and not Path(base).exists():
        return dict(KNOWN[base][1])
    return _arguments(Path(locate_base(base)) / "vae")


def transformer_arguments(base: str) -> dict[str, Any]:
    """Arguments of a base's transformer, from its files or from what is known."""
    if base in KNOWN and not Path(base).exists():
        return dict(KNOWN[base][0])
    return _arguments(Path(locate_base(base)) / "transformer")


def shapes(config: RunConfig, model: AlphaDiTConfig) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """The arguments of transformer, VAE and text encoder, from the files of a local base or from what is known."""
    base = config.base.path
    vae = vae_arguments(base)
    if base in KNOWN and not Path(base).exists():
        return transformer_arguments(base), vae, dict(UMT5_XXL)
    where = Path(locate_base(base))
    if model.fresh is not None:
        text = {"vocab_size": 4096, **model.fresh.text_encoder}
        return dict(model.fresh.transformer), vae, text
    text = _arguments(where / "text_encoder")
    known = ("vocab_size", "d_model", "d_kv", "d_ff", "num_layers", "num_heads", "feed_forward_proj")
    return transformer_arguments(base), vae, {name: text[name] for name in known if name in text}


def _image_encoder(config: RunConfig) -> tuple[int, int]:
    """How many tokens the base's CLIP makes of a picture, and its bytes."""
    arguments = _arguments(Path(locate_base(config.base.path)) / "image_encoder")
    with torch.device("meta"):
        encoder = CLIPVisionModel(CLIPVisionConfig(**arguments))
    side = int(encoder.config.image_size) // int(encoder.config.patch_size)  # type: ignore[arg-type]
    return side**2 + 1, bytes_of(encoder)


def _arguments(folder: Path) -> dict[str, Any]:
    try:
        content = json.loads((folder / "config.json").read_text())
    except OSError as error:
        raise BaseError(
            f"plan=true reads {folder / 'config.json'}, which is not there; known without files: {', '.join(KNOWN)}"
        ) from error
    return {name: value for name, value in content.items() if not name.startswith("_")}
