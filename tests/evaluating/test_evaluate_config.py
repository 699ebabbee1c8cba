"""The evaluation's configuration: files and schema agree, and mistakes are explained."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import hydra
import pytest
from omegaconf import DictConfig, OmegaConf

from wan_alpha.command import ConfigError, valid_keys, validated
from wan_alpha.evaluating.config import EvaluateConfig
from wan_alpha.evaluating.entry import plain_arguments
from wan_alpha.evaluating.record import FREE, begin

ROOT = Path(__file__).resolve().parents[2]


def compose(*overrides: str) -> DictConfig:
    with hydra.initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return hydra.compose("evaluate", plain_arguments(list(overrides)))


def leaves(tree: object, prefix: str = "") -> set[str]:
    found: set[str] = set()
    for key, value in tree.items() if isinstance(tree, dict) else ():
        found |= {f"{prefix}{key}"} | leaves(value, f"{prefix}{key}.")
    return found


def test_file_and_schema_have_the_same_keys() -> None:
    keys = leaves(OmegaConf.to_container(compose("out=x"), resolve=True))
    schema = {key for key in valid_keys(EvaluateConfig) if "~" not in key}
    assert keys <= schema
    shared = ("base.", "data.", "logger.")  # whose options are the training's to cover
    assert {key for key in schema - keys if not key.startswith(shared)} == set()
    assert set(FREE) <= schema


def test_names_of_systems_are_the_users_own() -> None:
    config, _ = validated(compose("out=x", "videos.ours=a/b", "codecs.v2=c", "compare=a,b"), EvaluateConfig)
    assert config.videos == {"ours": "a/b"}
    assert config.codecs == {"v2": "c"}
    assert config.compare == ["a", "b"]
    odd = ["out=Ö (1)", "videos.a=a b/Zoë's=1", "videos.b=C:\\x", "votes=ë.json,b.json", "prompts=list (2).json"]
    config, _ = validated(compose(*odd, "adapters=läufe/lr=1"), EvaluateConfig)
    assert config.videos == {"a": "a b/Zoë's=1", "b": "C:\\x"}
    assert (config.out, config.prompts, config.adapters) == ("Ö (1)", "list (2).json", "läufe/lr=1")
    assert config.votes == ["ë.json", "b.json"]


def test_the_record_holds_the_command_as_it_was_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    typed = ["videos.a=b/c", "prompts=p.json", "compare=x,y"]
    monkeypatch.setattr(sys, "argv", ["dir/evaluate.py", *plain_arguments([*typed, "out=a b"])])
    begin(tmp_path, {}, {})
    command = json.loads((tmp_path / "environment.json").read_text())["command"]
    assert command == "evaluate.py videos.a=b/c prompts=p.json compare=['x','y'] out='a b'"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("task=generate", "task='generate': input should be 'reconstruction', 'generation' or 'preference'"),
        ("+align.fpss=3", "align.fpss: no such key, .* Did you mean align.fps"),
        ("align.fps=0", "align.fps=0: input should be greater than 0"),
        ("references=[top]", "references.0='top': input should be 'ceiling' or 'floor'"),
        ("compare=[a]", "compare=.*: list should have at least 2 items"),
    ],
)
def test_mistakes_are_named(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        validated(compose("out=x", override), EvaluateConfig)


def test_the_output_directory_has_no_silent_default() -> None:
    with pytest.raises(ConfigError, match=r"^out has no value: give it on the command line, out=\.\.\."):
        validated(compose(), EvaluateConfig)


def test_a_mistyped_key_ends_in_a_sentence(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "evaluate.py"), "netwroks.fid=null", f"out={tmp_path}"]
    finished = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert finished.returncode == 1
    assert "Traceback" not in finished.stderr
    assert "error netwroks.fid: no such key, on the command line. Did you mean networks.fid?" in finished.stderr
