"""How much memory a piece of code needs at most, found without the memory: on fake tensors that have shapes only."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from wan_alpha.models.alpha_vae import AlphaVAE
from wan_alpha.models.codecs import WHOLE_CLIP


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all tensors that are made inside the `with` block, now and at most.

    Args:
        device: count those on this kind of device alone.

    Attributes:
        now, peak: bytes.
    """

    def __init__(self, device: str | None = None) -> None:
        super().__init__()
        self.device = device
        self.now = self.peak = 0
        self._alive: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if not func.is_view:
            for leaf in tree_leaves(out):
                if isinstance(leaf, Tensor) and self.device in (None, leaf.device.type):
                    self._note(leaf.untyped_storage())
        return out

    def _note(self, storage: Any) -> None:
        number = storage._cdata
        if number in self._alive:
            return
        size = storage.nbytes()

        def gone(_: Any) -> None:
            self._alive.pop(number, None)
            self.now -= size

        self._alive[number] = weakref.ref(storage, gone)
        self.now += size
        self.peak = max(self.peak, self.now)


def faked(module: nn.Module, mode: FakeTensorMode, device: str = "cpu") -> nn.Module:
    """A module that was built on the meta device, with fake tensors for its weights: it runs, and computes nothing."""
    for part in module.modules():
        for name, p in part._parameters.items():
            if p is not None:
                fake = FakeTensor(mode, p.data, torch.device(device))
                part._parameters[name] = nn.Parameter(fake, requires_grad=p.requires_grad)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = FakeTensor(mode, buffer, torch.device(device))
    return module


def bytes_of(module: nn.Module, trained: bool | None = None) -> int:
    """Bytes of a module's parameters and buffers; with `trained`, of those parameters that are, or are not, trained."""
    parameters = [p for p in module.parameters() if trained is None or p.requires_grad is trained]
    buffers = list(module.buffers()) if trained is not True else []
    return sum(t.numel() * t.element_size() for t in [*parameters, *buffers])


@torch.no_grad()
def encoding_bytes(codec: AlphaVAE, batch: int, frames: int, height: int, width: int) -> int:
    """Bytes that come and go at most while the RGBA VAE, built on the meta device, encodes a batch in float32.

    Long clips are encoded frame by frame: nine frames show the most, the others are there as input only.
    """
    streaming = frames * height * width > WHOLE_CLIP
    shown = min(frames, 9) if streaming else frames
    mode, live = FakeTensorMode(), LiveBytes()
    faked(codec, mode)
    with mode, live:
        clip = [torch.zeros(batch, channels, shown, height, width) for channels in (3, 1)]
        hard, grey = clip[0].clone(), clip[0].clone()  # the renders
        latents = list(codec._encode_stream(hard, grey) if streaming else [codec._encode_clip(hard, grey)])
        del clip, latents
    of_a_frame = 4 * (3 + 1 + 3 + 3 + 6) * batch * height * width  # the clip, its renders, both as one batch
    return live.peak + of_a_frame * (frames - shown)
