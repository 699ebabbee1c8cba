"""Where a model works: the device that a configuration names."""

from __future__ import annotations

import shutil

import torch

CPP_COMPILERS = ("g++", "clang++")


class DeviceError(RuntimeError):
    """The device that was asked for is not there."""


def choose_device(name: str) -> torch.device:
    """`auto` is the GPU if there is one.

    Raises:
        DeviceError: it is no `cpu`, `cuda` or `cuda:N`, or not here.
    """
    here = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return torch.device("cuda" if here else "cpu")
    kind, _, number = name.partition(":")
    if name != "cpu" and (kind != "cuda" or not (name == "cuda" or number.isdecimal())):
        raise DeviceError(f"device={name}: no such device; give auto, cpu, cuda or cuda:N")
    if kind == "cuda" and int(number or 0) >= here:
        found = f"{here} CUDA devices" if here else "no CUDA device"
        raise DeviceError(f"device={name}: {found} here; take device=cpu or device=auto")
    return torch.device(name)


def check_compiler(option: str) -> None:
    """torch compiles for a GPU with what it brings along, for a processor with a C++ compiler.

    Raises:
        DeviceError: there is neither; `option` is the key that asks for it.
    """
    if not torch.cuda.is_available() and not any(map(shutil.which, CPP_COMPILERS)):
        raise DeviceError(
            f"{option}=true needs a CUDA GPU, or to try it on a processor a C++ compiler "
            f"({' or '.join(CPP_COMPILERS)}); there is neither here: set it to false"
        )
