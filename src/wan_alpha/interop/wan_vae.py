"""Wan2.1's own VAE file -> diffusers' AutoencoderKLWan, of any width and depth.

diffusers' single-file loader does the same for the released sizes only: it takes its configuration from the hub and
its names are fixed to four stages of two residual blocks.  Here the shapes say what the model is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from torch import Tensor

from wan_alpha.interop.naming import base_table
from wan_alpha.interop.weights import CheckpointError, few

RELEASED_Z = 16


def infer_config(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """The arguments of AutoencoderKLWan that fit the shapes of a Wan2.1 VAE in Wan's own names.

    Raises:
        CheckpointError: this is no such VAE.
    """
    if "encoder.conv_in.weight" in weights:
        raise CheckpointError("the base is in diffusers' names already; give Wan's own file, Wan2.1_VAE.pth")
    if not {"encoder.conv1.weight", "conv2.weight"} <= weights.keys():
        raise CheckpointError(
            f"the base is no Wan2.1 VAE: it has no encoder.conv1.weight and conv2.weight, "
            f"but {few(sorted(weights))}; give Wan2.1_VAE.pth"
        )
    dim, z_dim = weights["encoder.conv1.weight"].shape[0], weights["conv2.weight"].shape[0]
    stages, temporal = _stages(weights)
    widths = [stage[-1] if stage else 0 for stage in stages]
    depths = {len(stage) for stage in stages}
    if depths == {0} or len(depths) != 1 or any(width % dim for width in widths):
        raise CheckpointError(
            f"the base is no Wan2.1 VAE: its encoder has stages of {[len(s) for s in stages]} residual blocks with "
            f"{widths} channels on a first convolution of {dim} (Wan2.2's VAE is built differently)"
        )
    config: dict[str, Any] = {
        "base_dim": dim,
        "z_dim": z_dim,
        "dim_mult": [width // dim for width in widths],
        "num_res_blocks": depths.pop(),
        "temperal_downsample": temporal,
        "scale_factor_temporal": 2 ** sum(temporal),
        "scale_factor_spatial": 2 ** len(temporal),
    }
    if z_dim != RELEASED_Z:  # diffusers' defaults are the statistics of Wan2.1's 16 channels
        config |= {"latents_mean": [0.0] * z_dim, "latents_std": [1.0] * z_dim}
    return config


def base_from_wan(weights: Mapping[str, Tensor]) -> AutoencoderKLWan:
    """Build diffusers' VAE from Wan's own weights; the tensors are taken over as they are, not copied.

    Raises:
        CheckpointError: a weight is missing, unknown or of another shape.
    """
    config = infer_config(weights)
    with torch.device("meta"):
        vae = AutoencoderKLWan(**config)
    expected = vae.state_dict()
    table = base_table(expected, config["num_res_blocks"])
    missing, unknown = sorted(table.keys() - weights.keys()), sorted(weights.keys() - table.keys())
    if missing or unknown:
        raise CheckpointError(f"the base is no Wan2.1 VAE: missing {few(missing)}; unknown {few(unknown)}")
    check_shapes({key: expected[name] for key, name in table.items()}, weights, "the base")
    vae.load_state_dict({name: weights[key] for key, name in table.items()}, strict=True, assign=True)
    return vae.requires_grad_(False).eval()


def check_shapes(expected: Mapping[str, Tensor], found: Mapping[str, Tensor], what: str) -> None:
    """Every tensor of `expected` has the same shape in `found`, or the first few that differ are named."""
    wrong = [
        f"{key} is {tuple(found[key].shape)}, expected {tuple(tensor.shape)}"
        for key, tensor in expected.items()
        if found[key].shape != tensor.shape
    ]
    if wrong:
        raise CheckpointError(f"{what} has tensors of other shapes: {few(wrong)}")


def _stages(weights: Mapping[str, Tensor]) -> tuple[list[list[int]], list[bool]]:
    """Output channels of the residual blocks per stage, and whether each downsampler halves time."""
    stages: list[list[int]] = [[]]
    temporal: list[bool] = []
    for index in range(len(weights)):
        layer = f"encoder.downsamples.{index}"
        if f"{layer}.residual.6.weight" in weights:
            stages[-1].append(weights[f"{layer}.residual.6.weight"].shape[0])
        elif f"{layer}.resample.1.weight" in weights:
            temporal.append(f"{layer}.time_conv.weight" in weights)
            stages.append([])
        else:
            break
    return stages, temporal
