"""A tiny decoder for previews, in the layout of TAEHV (github.com/madebyollin/taehv), whose files it takes.

2D convolutions alone; time enters through blocks that see the frame before.  A file for Wan2.1 (`taew2_1`) decodes
normalised latents to colour; one with a fourth channel, of the same layout, decodes alpha as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Channels of the last convolution: channels of a picture times the square of the patch that is folded into them.
_LAST = {3 * 1: (3, 1), 3 * 4: (3, 2), 4 * 1: (4, 1), 4 * 4: (4, 2)}
_STAGES = ((3, False), (9, True), (15, True))  # where a stage begins, and whether it doubles the number of frames
_ENTRY, _EXIT = 1, 22
_TIMES = 4  # frames per latent frame


class MemoryBlock(nn.Module):
    """A residual block of two frames: this one and the one before."""

    def __init__(self, width: int) -> None:
        super().__init__()
        layers = [_conv(2 * width, width), nn.ReLU(), _conv(width, width), nn.ReLU(), _conv(width, width)]
        self.conv = nn.Sequential(*layers)

    def forward(self, x: Tensor, before: Tensor) -> Tensor:
        """Both (B, C, H, W)."""
        return F.relu(self.conv(torch.cat([x, before], dim=1)) + x)


class TimeGrow(nn.Module):
    """One frame becomes one or two: a 1x1 convolution whose channels are then frames."""

    def __init__(self, width: int, frames: int) -> None:
        super().__init__()
        self.frames = frames
        self.conv = nn.Conv2d(width, width * frames, 1, bias=False)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, C, H, W) -> frames of the same shape, in order."""
        return list(self.conv(x).chunk(self.frames, dim=1))


class TinyDecoder(nn.Module):
    """Normalised latent -> picture, frame by frame, on flat memory.

    Args:
        z_dim: channels of the latent.
        widths: channels of the three stages and of the end (TAEHV: 256, 128, 64, 64).
        channels: 3 for colour, 4 for colour and alpha.
        patch: side of the pixel block that the last convolution gives at once (1, or 2 for Wan2.2).
    """

    def __init__(self, z_dim: int, widths: tuple[int, int, int, int], channels: int = 3, patch: int = 1) -> None:
        super().__init__()
        self.z_dim, self.channels, self.patch = z_dim, channels, patch
        layers: list[nn.Module] = [nn.Identity(), _conv(z_dim, widths[0]), nn.ReLU()]
        for (_, doubles), width, following in zip(_STAGES, widths[:3], widths[1:], strict=True):
            layers += [MemoryBlock(width) for _ in range(3)]
            layers += [nn.Upsample(scale_factor=2), TimeGrow(width, 2 if doubles else 1)]
            layers += [_conv(width, following, bias=False)]
        layers += [nn.ReLU(), _conv(widths[3], channels * patch**2)]
        self.decoder = nn.ModuleList(layers)

    @property
    def spatial_stride(self) -> int:
        """Pixels per latent cell and side."""
        return 8 * self.patch

    @classmethod
    def from_weights(cls, weights: Mapping[str, Tensor]) -> TinyDecoder:
        """A decoder on the tensors of a TAEHV file; its encoder is passed over.

        Raises:
            ValueError: this is no such file; says what does not fit.
        """
        own = {name: tensor for name, tensor in weights.items() if name.startswith("decoder.")}
        firsts = [f"decoder.{_ENTRY}.weight", *(f"decoder.{at + 5}.weight" for at, _ in _STAGES)]
        if missing := [name for name in [*firsts, f"decoder.{_EXIT}.weight"] if name not in own]:
            raise ValueError(f"no TAEHV decoder: {', '.join(missing)} missing among {len(weights)} tensors")
        widths: Any = tuple(own[name].shape[0] for name in firsts)
        last = own[f"decoder.{_EXIT}.weight"].shape[0]
        if last not in _LAST:
            raise ValueError(
                f"no TAEHV decoder for Wan: {last} channels in its last convolution, not one of {[*_LAST]}"
            )
        model = cls(own[firsts[0]].shape[1], widths, *_LAST[last])
        for at, _ in _STAGES:  # a file may double time where Wan does not: the later frame is meant
            key = f"decoder.{at + 4}.conv.weight"
            if key in own:
                own[key] = own[key][-model.get_parameter(key).shape[0] :]
        try:
            model.load_state_dict(own, strict=True)
        except RuntimeError as error:
            raise ValueError(f"no TAEHV decoder for Wan: {' '.join(str(error).split())[:300]}") from error
        return model.requires_grad_(False).eval()

    @torch.no_grad()
    def stream(self, z: Tensor) -> Iterator[Tensor]:
        """Decode normalised latents (B, z, T', h, w).

        Yields:
            Pictures (B, channels, t, H, W) in [0, 1]: t = 1, then 4 per further latent frame.
        """
        memory: dict[int, Tensor] = {}
        for number in range(z.shape[2]):
            frames = [torch.tanh(z[:, :, number] / 3) * 3]
            for at, layer in enumerate(self.decoder):
                frames = _through(layer, frames, memory, at)
            pictures = torch.stack([F.pixel_shuffle(x, self.patch) for x in frames], dim=2).clamp_(0, 1)
            # Of the first latent frame only the last picture is meant: Wan's first frame stands alone.
            yield pictures[:, :, _TIMES - 1 :] if number == 0 else pictures


def _through(layer: nn.Module, frames: list[Tensor], memory: dict[int, Tensor], at: int) -> list[Tensor]:
    """The frames of one latent frame through one layer; `memory` holds what a block saw last."""
    if isinstance(layer, TimeGrow):
        return [after for x in frames for after in layer(x)]
    if not isinstance(layer, MemoryBlock):
        return [layer(x) for x in frames]
    done = []
    for x in frames:
        done.append(layer(x, memory.get(at, torch.zeros_like(x))))
        memory[at] = x
    return done


def _conv(inputs: int, outputs: int, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1, bias=bias)
