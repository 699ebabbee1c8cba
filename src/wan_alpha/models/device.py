"""Where a model works: the device that a configuration names."""

from __future__ import annotations

import os
import shutil
import sysconfig
from pathlib import Path

import torch

C_COMPILERS = ("gcc", "clang")
CPP_COMPILERS = ("g++", "clang++")
VARIANTS = 64  # of one function: widths, with and without gradients, batches of one, memory formats
PYTHON_HEADER = Path(sysconfig.get_path("include")) / "Python.h"


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


def missing_compiler() -> str:
    """What torch.compile needs and does not find, or nothing: for a GPU Triton builds its launchers in C, else C++."""
    language, variable, names = ("C++", "CXX", CPP_COMPILERS)
    if torch.cuda.is_available():
        language, variable, names = ("C", "CC", C_COMPILERS)
    if not any(shutil.which(name) for name in (os.environ.get(variable, ""), *names)):
        return f"a {language} compiler ({' or '.join(names)})"
    return "" if PYTHON_HEADER.exists() else f"Python's headers ({PYTHON_HEADER})"


def check_compiler(option: str) -> None:
    """Refuse the key `option`, which lets torch compile, where it cannot.

    Raises:
        DeviceError: something is missing.
    """
    if missing := missing_compiler():
        raise DeviceError(
            f"{option}=true needs {missing}, which is not here: install it (Debian: build-essential, python3-dev), "
            f"or set {option}=false"
        )


def allow_variants() -> None:
    """Let torch compile one function in `VARIANTS` forms: after 8 of them it would go on without compiling."""
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, VARIANTS)
