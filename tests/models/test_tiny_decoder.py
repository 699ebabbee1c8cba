"""The tiny decoder is TAEHV's: its names, its numbers (written again here, whole clip at once), its frames."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from wan_alpha.models.tiny_decoder import TinyDecoder

# What the published files hold beside the encoder, read from TAEHV's own code: layers 0, 2, 6, 12, 18 and 21 have none.
BLOCKS = [f"{at}.conv.{layer}" for at in (3, 4, 5, 9, 10, 11, 15, 16, 17) for layer in (0, 2, 4)]
KEYS = {f"decoder.{name}.{part}" for name in ["1", "22", *BLOCKS] for part in ("weight", "bias")} | {
    f"decoder.{name}.weight" for name in ("7.conv", "13.conv", "19.conv", "8", "14", "20")
}


def small(channels: int = 3, patch: int = 1, z_dim: int = 4) -> TinyDecoder:
    torch.manual_seed(0)
    return TinyDecoder(z_dim, (8, 6, 5, 4), channels, patch).eval()


def whole_clip(weights: dict[str, Tensor], z: Tensor, patch: int) -> Tensor:
    """TAEHV's parallel form: frames in the batch, the frame before from a shift by one with zeros; B = 1."""

    def conv(x: Tensor, name: str) -> Tensor:
        weight = weights[f"decoder.{name}.weight"]
        return F.conv2d(x, weight, weights.get(f"decoder.{name}.bias"), padding=weight.shape[-1] // 2)

    x = F.relu(conv(3 * torch.tanh(z[0].transpose(0, 1) / 3), "1"))
    for start, frames in ((3, 1), (9, 2), (15, 2)):
        for at in range(start, start + 3):
            past = torch.cat([torch.zeros_like(x[:1]), x[:-1]])
            y = F.relu(conv(torch.cat([x, past], 1), f"{at}.conv.0"))
            x = F.relu(conv(F.relu(conv(y, f"{at}.conv.2")), f"{at}.conv.4") + x)
        x = conv(F.interpolate(x, scale_factor=2), f"{start + 4}.conv")
        x = x.reshape(x.shape[0] * frames, -1, *x.shape[2:])
        x = conv(x, f"{start + 5}")
    x = F.pixel_shuffle(conv(F.relu(x), "22"), patch).clamp(0, 1)
    return x[3:].transpose(0, 1)[None]


def test_names_are_those_of_the_published_files() -> None:
    model = TinyDecoder(16, (256, 128, 64, 64))
    assert model.state_dict().keys() == KEYS
    assert model.decoder[22].weight.shape == (3, 64, 3, 3)


@pytest.mark.parametrize(("channels", "patch"), [(3, 1), (4, 1), (3, 2)])
@torch.no_grad()
def test_frame_by_frame_is_the_whole_clip(channels: int, patch: int) -> None:
    model = small(channels, patch)
    z = 2 * torch.randn(1, 4, 3, 2, 3)
    chunks = list(model.stream(z))
    assert [chunk.shape[2] for chunk in chunks] == [1, 4, 4]
    found = torch.cat(chunks, dim=2)
    assert found.shape == (1, channels, 9, 16 * patch, 24 * patch)
    torch.testing.assert_close(found, whole_clip(model.state_dict(), z, patch), rtol=0, atol=1e-5)
    assert found.std() > 0.01
    two = torch.cat(list(model.stream(torch.cat([z, -z]))), dim=2)
    torch.testing.assert_close(two[:1], found, rtol=0, atol=1e-5)


def test_sizes_come_from_the_file_and_its_encoder_is_passed_over() -> None:
    model = small(4, 2, z_dim=6)
    weights = model.state_dict() | {"encoder.0.weight": torch.zeros(64, 3, 3, 3)}
    again = TinyDecoder.from_weights(weights)
    assert (again.z_dim, again.channels, again.patch, again.spatial_stride) == (6, 4, 2, 16)
    # Files that double time in the first stage as well: the later frame counts.
    grow = "decoder.7.conv.weight"
    doubled = TinyDecoder.from_weights(weights | {grow: torch.cat([torch.zeros_like(weights[grow]), weights[grow]])})
    assert torch.equal(doubled.state_dict()[grow], weights[grow])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"decoder.14.weight": None}, r"decoder\.14\.weight missing among 63 tensors"),
        ({"decoder.22.weight": torch.zeros(5, 4, 3, 3)}, "5 channels in its last convolution"),
        ({"decoder.9.conv.0.weight": torch.zeros(6, 5, 3, 3)}, "size mismatch"),
        ({"decoder.99.weight": torch.zeros(1)}, "Unexpected key"),
    ],
)
def test_other_files_are_refused(change: dict[str, Tensor | None], message: str) -> None:
    weights = {k: t for k, t in (small().state_dict() | change).items() if t is not None}
    with pytest.raises(ValueError, match=message):
        TinyDecoder.from_weights(weights)
