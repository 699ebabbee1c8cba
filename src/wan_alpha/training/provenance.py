"""What a run must keep to be repeated: configuration, code, packages, data."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

PACKAGES = (
    "torch",
    "diffusers",
    "transformers",
    "peft",
    "pytorch-lightning",
    "hydra-core",
    "omegaconf",
    "torchmetrics",
    "av",
    "pillow",
    "numpy",
    "safetensors",
    "wan-alpha",
)


def describe_environment() -> dict[str, Any]:
    """Commit, command, versions, machine; no names of users or hosts."""
    return {
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "git": _git_state(),
        "python": platform.python_version(),
        "packages": _versions(),
        "machine": {
            "processor": platform.machine(),
            "cores": os.cpu_count(),
            "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
    }


def _versions() -> dict[str, str]:
    """Versions of what is installed; a run must not end because a package came another way."""
    found = {}
    for name in PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def _git_state() -> dict[str, Any]:
    root = Path(__file__).resolve().parents[3]

    def git(*args: str) -> str:
        return subprocess.run(
            ["git", "-C", str(root), *args], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        return {
            "commit": git("rev-parse", "HEAD"),
            "modified": bool(git("status", "--porcelain", "--untracked-files=no")),
        }
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "modified": None}


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file atomically."""
    partial = path.with_name(path.name + ".tmp")
    partial.write_text(json.dumps(content, indent=2, ensure_ascii=False, sort_keys=True) + "\n")
    os.replace(partial, path)
