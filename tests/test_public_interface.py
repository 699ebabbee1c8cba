"""What `import wan_alpha` promises, and which way imports may point."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "src" / "wan_alpha"
# From top to bottom: a room imports only from rooms below it.
ROOMS = ["training", "stages", "pipeline", "evaluation", "interop", "data", "losses", "models", "rendering"]
FRAMEWORKS = {"hydra", "omegaconf", "pytorch_lightning", "lightning", "wandb"}


def run_python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_the_library_needs_no_training_framework() -> None:
    code = f"""
import sys
from wan_alpha import AlphaVAE
assert AlphaVAE.__module__ == "wan_alpha.models.alpha_vae"
print(sorted({{name.split(".")[0] for name in sys.modules}} & {FRAMEWORKS!r}))
"""
    assert run_python(code) == "[]"


def test_importing_the_package_alone_is_light() -> None:
    assert run_python("import sys, wan_alpha; print('torch' in sys.modules)") == "False"


def test_a_mistyped_name_says_what_there_is() -> None:
    import wan_alpha

    with pytest.raises(AttributeError, match="'AlphaVAR'; it has AlphaVAE"):
        _ = wan_alpha.AlphaVAR


def imported_rooms(file: Path) -> set[str]:
    """First component below wan_alpha of everything a file imports, wherever in it."""
    package = ["wan_alpha", *file.relative_to(PACKAGE).parent.parts]
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            names = [f"{module}.{alias.name}" for alias in node.names]
        else:
            continue
        found |= {name.split(".")[1] for name in names if name.startswith("wan_alpha.")}
    return found


def imported_packages(file: Path) -> set[str]:
    tree = ast.parse(file.read_text())
    names = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and not node.level]
    return {name.split(".")[0] for name in names}


def files_of(room: str) -> list[Path]:
    found = sorted((PACKAGE / room).glob("**/*.py")) or [PACKAGE / f"{room}.py"]
    assert found[0].exists(), room
    return found


@pytest.mark.parametrize("room", ROOMS)
def test_imports_point_downwards_only(room: str) -> None:
    allowed = set(ROOMS[ROOMS.index(room) :])
    for file in files_of(room):
        upwards = (imported_rooms(file) & set(ROOMS)) - allowed
        assert not upwards, f"{file.relative_to(PACKAGE)} imports {upwards}"


@pytest.mark.parametrize("room", ["models", "losses", "rendering", "data", "evaluation"])
def test_only_stages_and_training_know_the_frameworks(room: str) -> None:
    for file in files_of(room):
        assert not imported_packages(file) & FRAMEWORKS, file
