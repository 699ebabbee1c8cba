"""Where the files live that ship with the project: the repository's `assets/` folder."""

from pathlib import Path

ASSETS = Path(__file__).resolve().parents[3] / "assets"


class AssetError(FileNotFoundError):
    """A shipped file is not there."""


def asset(name: str) -> Path:
    """Path of a shipped file or folder.

    Args:
        name: path below `assets/`, such as "vgg16/vgg16_conv3_3.safetensors".

    Raises:
        AssetError: if it is not there, with what is there instead.
    """
    path = ASSETS / name
    if path.exists():
        return path
    if not ASSETS.is_dir():
        raise AssetError(
            f"asset {name!r}: there is no folder {ASSETS}. The assets are part of the repository, not of a wheel: "
            "clone it and install it with `pip install -e .`"
        )
    there = ", ".join(sorted(entry.name for entry in ASSETS.iterdir())) or "nothing"
    raise AssetError(f"asset {name!r}: {path} is missing; {ASSETS} holds {there}. Restore it with `git checkout`")
