"""The sizes of a base are told by its configuration, wherever it lies."""

from __future__ import annotations

import pytest

from wan_alpha.models.base import SizeError
from wan_alpha.models.form import BaseForm
from wan_alpha.pipeline.loading import read_form

# What the released configurations say, as far as it counts here.
LARGE_VAE = {"dim_mult": [1, 2, 4, 4], "temperal_downsample": [False, True, True], "z_dim": 16}
WAN22_VAE = LARGE_VAE | {"is_residual": True, "patch_size": 2, "z_dim": 48}
SMALLEST = {"num_attention_heads": 12, "attention_head_dim": 128, "in_channels": 16, "patch_size": [1, 2, 2]}
WAN22_5B = SMALLEST | {"num_attention_heads": 24, "in_channels": 48}


def test_released_bases_and_the_shipped_one() -> None:
    wan21, wan22 = BaseForm.of(LARGE_VAE, SMALLEST), BaseForm.of(WAN22_VAE, WAN22_5B)
    assert wan21 == BaseForm(81, 480, 832, stride=4, step=16, takes_image=False)
    assert wan22 == BaseForm(121, 704, 1280, stride=4, step=32, takes_image=False)
    assert BaseForm.of({}, {}) == wan21  # what a file leaves out is diffusers' default
    assert BaseForm.of(LARGE_VAE, SMALLEST | {"in_channels": 36}).takes_image
    assert read_form("tiny") == BaseForm(9, 64, 64, stride=4, step=16, takes_image=False)


def test_sizes_and_lengths() -> None:
    form = BaseForm.of(WAN22_VAE, WAN22_5B)
    form.check_size(704, 1280)
    for height, width in ((720, 1280), (704, 1296), (0, 32)):
        with pytest.raises(SizeError, match="multiples of 32"):
            form.check_size(height, width)
    assert [form.nearest_length(n) for n in (1, 2, 5, 6, 8, 121)] == [1, 1, 5, 5, 9, 121]
