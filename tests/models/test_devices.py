"""The shipped RGBA VAE on every device of this machine, against double precision on its processor."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from wan_alpha import AlphaVAE
from wan_alpha.models.device import DeviceError, check_compiler, choose_device
from wan_alpha.models.whole_clip import run_checkpointed, run_plain

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
GENERATOR = torch.Generator().manual_seed(0)
RGB = torch.rand(1, 3, 9, 64, 64, generator=GENERATOR) * 2 - 1
ALPHA = torch.rand(1, 1, 9, 64, 64, generator=GENERATOR)


@pytest.fixture(autouse=True)
def _exact() -> Iterator[None]:
    """No TensorFloat32, and the same sums every time."""
    with torch.backends.cudnn.flags(deterministic=True, allow_tf32=False):
        yield


def difference(found: Tensor, true: Tensor) -> float:
    """Relative to the norm of what is true."""
    return float((found.cpu().double() - true.cpu().double()).norm() / true.double().norm())


def test_devices_are_named_and_must_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("gpu", "cuda:x", "cuda:", "mps", ""):
        with pytest.raises(DeviceError, match=f"device={name}: no such device; give auto, cpu, cuda or cuda:N"):
            choose_device(name)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto").type == choose_device("cpu").type == "cpu"
    with pytest.raises(DeviceError, match="device=cuda: no CUDA device here"):
        choose_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [str(choose_device(name)) for name in ("auto", "cuda", "cuda:1")] == ["cuda", "cuda", "cuda:1"]
    with pytest.raises(DeviceError, match="device=cuda:2: 2 CUDA devices here"):
        choose_device("cuda:2")


@pytest.mark.parametrize(("gpu", "compiler"), [(False, "g++"), (True, "gcc")])
def test_what_compiling_lacks_is_told(
    gpu: bool, compiler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GPU needs a compiler, too, and both need Python's headers."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr("wan_alpha.models.device.PYTHON_HEADER", tmp_path / "Python.h")
    for name, value in (("PATH", tmp_path), ("CC", ""), ("CXX", "")):
        monkeypatch.setenv(name, str(value))
    with pytest.raises(DeviceError, match=rf"KEY=true needs a C.* \({re.escape(compiler)} or .* or set KEY=false"):
        check_compiler("KEY")
    (tmp_path / compiler).touch(mode=0o755)
    with pytest.raises(DeviceError, match=r"KEY=true needs Python's headers \(.*Python.h\)"):
        check_compiler("KEY")
    (tmp_path / "Python.h").touch()
    check_compiler("KEY")


@pytest.mark.parametrize("device", DEVICES)
@torch.no_grad()
def test_a_round_trip_is_that_of_double_precision_streaming_and_whole(device: str) -> None:
    exact, vae = AlphaVAE.from_pretrained("tiny", "tiny").double(), AlphaVAE.from_pretrained("tiny", "tiny").to(device)
    latent = exact.encode(RGB.double(), ALPHA.double())
    rgb, alpha = exact.decode(latent)
    for streaming in (True, False):
        z = vae.encode(RGB.to(device), ALPHA.to(device), streaming=streaming)
        assert difference(z, latent) < 1e-5
        for found, true in zip(vae.decode(z, streaming=streaming), (rgb, alpha), strict=True):
            assert difference(found, true) < 1e-5


@pytest.mark.parametrize("device", DEVICES)
def test_checkpointing_changes_no_bit_of_a_gradient_under_bf16(device: str) -> None:
    vae, gradients = AlphaVAE.from_pretrained("tiny", "tiny").to(device), []
    for run in (run_plain, run_checkpointed):
        vae.run = run
        vae.zero_grad()
        with torch.autocast(device, torch.bfloat16):
            rgb, alpha = vae(RGB.to(device), ALPHA.to(device), torch.tensor([1.0, -1.0, 1.0], device=device))
            (rgb.square().mean() + alpha.square().mean()).backward()
        gradients.append([p.grad.clone() for p in vae.adapter_parameters().values() if p.grad is not None])
    assert len(gradients[0]) > 50
    assert all(torch.equal(plain, again) for plain, again in zip(*gradients, strict=True))
