"""How `generate.py` is called in tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from hydra import compose, initialize_config_dir
from PIL import Image
from rich.console import Console

from wan_alpha.command import validated
from wan_alpha.pipeline.arguments import plain_text
from wan_alpha.pipeline.config import GenerateConfig
from wan_alpha.pipeline.generate import load

ROOT = Path(__file__).resolve().parents[2]
QUIET = Console(quiet=True)
LOAD = load


def composed(*arguments: str) -> GenerateConfig:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return validated(compose("generate", plain_text(arguments)), GenerateConfig)[0]


def alpha_of(folder: Path) -> np.ndarray:
    return np.asarray(Image.open(folder / "00002.png"))
