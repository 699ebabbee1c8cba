"""Mistakes on the command line and in configuration files are explained in a sentence."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import hydra
import pytest
import yaml
from omegaconf import DictConfig, OmegaConf

from wan_alpha.command import ConfigError, plain_texts
from wan_alpha.training.entry import checked, plain_arguments
from wan_alpha.training.identity import register_resolver

ROOT = Path(__file__).resolve().parents[1]
CONF = ROOT / "conf"


def compose(*overrides: str) -> DictConfig:
    register_resolver()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return hydra.compose("train", list(overrides))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optim.lr=fast", "optim.lr='fast': input should be a valid number"),
        ("trainer.max_steps=0", "trainer.max_steps=0: input should be greater than or equal to 1"),
        ("trainer.max_steps=1.5", "trainer.max_steps=1.5: input should be a valid integer"),
        ("data.max_corrupt_share=2", "data.max_corrupt_share=2: input should be less than or equal to 1"),
        ("data.size=[16]", r"data.size=\[16\]: list should have at least 2 items"),
        ("data.size=[0,16]", "data.size.0=0: input should be greater than or equal to 1"),
        ("data.frame_stride=[2,1]", r"data.frame_stride=\[2, 1\]: the smaller number comes first"),
        ("data.buckets=[{num_frames:5}]", "data.buckets.0.size has no value"),
        ("data.buckets=[]", r"data.buckets=\[\]: list should have at least 1 item"),
        ("data.sources=[{root:A,wieght:1}]", "data.sources.0.wieght: no such key.* Did you mean data.sources.weight"),
        ("data.sources=[{root:A,weight:0}]", "data.sources.0.weight=0: input should be greater than 0"),
        ("data.cache_gb=0", "data.cache_gb=0: input should be greater than 0"),
        ("data.zoom=[0.5,1]", "data.zoom.0=0.5: input should be greater than or equal to 1"),
        ("model.merge.init=zero", "model.merge.init='zero': input should be 'base' or 'random'"),
        ("loss.render=hard", "loss.render='hard': input should be 'none', 'soft' or 'soft_hard'"),
        ("model.kind=foo", "model.kind='foo': input tag 'foo' .* 'alpha_vae', 'base_vae'"),
        ("+model.lorra=1", "model.lorra: no such key, .* Did you mean model.lora?"),
        ("+loss.weights.l2=1", "loss.weights.l2: no such key, .* Did you mean loss.weights.l1?"),
        ("+data.height=64", r"data.height: no such key, [^?]*\. data has batch_size, "),
        ("+trainer.clip=1", r"trainer.clip: no such key, .* Did you mean trainer.gradient_clip_val\? trainer has "),
        ("+loss.weights.contrast=1", r"loss.weights.contrast: no such key, [^?]*\. loss.weights has "),
        ("+model.lr=1", "model.lr: no such key, .* Did you mean optim.lr?"),
        ("+loss.size=1", "loss.size: no such key, .* Did you mean data.size?"),
        ("+trainer.max_step=1", "trainer.max_step: no such key, .* Did you mean trainer.max_steps?"),
        (
            "+optim.learning_rate=1",
            "optim.learning_rate: no such key, .* optim has betas, decay_share, ema_decay, lr, ",
        ),
        ("~optim.lr", "^optim.lr has no value: give it on the command line, optim.lr=..."),
    ],
)
def test_wrong_values_and_keys_are_explained_in_one_line(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        checked(compose(override))
    assert "\n" not in str(caught.value)


def test_paths_may_hold_any_signs() -> None:
    said = plain_texts(["data.root=My Clips (2) #ü, 100%", "root=[a b,ü]", "seed=1", "root"], "data.root", "root")
    assert said == ["data.root='My Clips (2) #ü, 100%'", "root=['a b','ü']", "seed=1", "root"]
    assert compose(said[0]).data.root == "My Clips (2) #ü, 100%"
    assert plain_texts(["-m", "data.root=A,B"], "data.root") == ["-m", "data.root=A,B"]


@pytest.mark.parametrize("key", ["run_dir", "ckpt_path", "base.path", "model.init_from", "loss.perceptual.weights"])
def test_paths_of_a_run_may_hold_any_signs(key: str) -> None:
    path = "/home/ü/Läufe, neu (2) [a]/it's = $x #1"
    (argument,) = plain_arguments([f"{key}={path}"])
    assert OmegaConf.select(compose(argument), key) == path


def test_a_run_directory_is_put_together_from_other_keys() -> None:
    (argument,) = plain_arguments(["run_dir=runs/${stage}-${seed}"])
    assert compose(argument, "seed=7").run_dir == "runs/vae-7"


def command_line(*arguments: str, config: Path | None = None, **environment: str) -> str:
    """What `python train.py ARGUMENTS` says when it refuses to run."""
    path = [] if config is None else ["--config-path", str(config)]
    command = [sys.executable, str(ROOT / "train.py"), *path, *arguments]
    said: dict[str, Any] = {"capture_output": True, "encoding": "utf-8", "env": {**os.environ, **environment}}
    finished = subprocess.run(command, cwd=config or ROOT, timeout=120, **said)
    assert finished.returncode == 1
    assert "Traceback" not in finished.stderr
    return " ".join(finished.stderr.split())


def test_a_mistyped_key_on_the_command_line(tmp_path: Path) -> None:
    said = command_line("optim.lrr=1", f"run_dir={tmp_path}")
    assert said == "error optim.lrr: no such key, on the command line. Did you mean optim.lr?"


@pytest.mark.parametrize(
    ("choice", "there"), [("stage=foo", "stage=foo: no such choice; there are base, dit, vae"),
                          ("experiment=none", "experiment=none: no such choice; there are ablation_dit, ")],
)  # fmt: skip
def test_a_choice_that_there_is_not(choice: str, there: str) -> None:
    assert command_line(choice).startswith(f"error {there}")


def test_a_key_that_must_be_given() -> None:
    command = [sys.executable, str(ROOT / "evaluate.py")]
    finished = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert finished.stderr.strip() == "error out has no value: give it on the command line, out=..."


def test_a_value_that_hydra_does_not_understand_is_named(tmp_path: Path) -> None:
    said = command_line("logger.wandb.project=a (b)", f"run_dir={tmp_path}")
    assert re.search(r"^error logger.*=a \(b\): not understood .*; a value with brackets, .* quotes of its own", said)


def test_a_locale_that_would_misread_texts_is_refused(tmp_path: Path) -> None:
    posix = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    said = command_line("debug=fast", f"run_dir={tmp_path}", **posix)
    assert said.startswith("error the locale makes Python read and write files as ANSI_X3.4-1968, but all texts")
    assert "set PYTHONUTF8=1, or a locale of UTF-8 such as LC_ALL=C.UTF-8, and run the same command again" in said


def test_a_wrong_value_on_the_command_line_names_it_as_its_origin(tmp_path: Path) -> None:
    said = command_line("trainer.max_steps=-3", "data.size=[16,0]", f"run_dir={tmp_path}")
    assert "trainer.max_steps=-3: input should be greater than or equal to 1, on the command line" in said
    assert "data.size.1=0: input should be greater than or equal to 1, on the command line" in said


@pytest.mark.parametrize(
    ("file", "key", "value", "message"),
    [
        ("trainer/cpu.yaml", "max_stepz", 5, "trainer.max_stepz: no such key, in conf/trainer/cpu.yaml. Did you mean "
         "trainer.max_steps?"),
        ("data/common.yaml", "zoomm", 5, "data.zoomm: no such key, in conf/data/common.yaml. Did you mean data.zoom?"),
        ("data/sample.yaml", "val_share", "most", "data.val_share='most': input should be a valid number, unable to "
         "parse string as a number, in conf/data/sample.yaml"),
        ("experiment/smoke.yaml", "optim", {"lr": -1}, "optim.lr=-1: input should be greater than 0, in "
         "conf/experiment/smoke.yaml"),
        ("train.yaml", "sed", 1, "sed: no such key, in conf/train.yaml. Did you mean seed?"),
        ("stage/vae.yaml", "loss", {"edge": "sobl"}, "loss.edge='sobl': input should be 'sobel' or 'central', in "
         "conf/stage/vae.yaml"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_file_names_the_file(file: str, key: str, value: Any, message: str, tmp_path: Path) -> None:
    conf = shutil.copytree(CONF, tmp_path / "conf")
    text = (conf / file).read_text()
    content = yaml.safe_load(text)
    if isinstance(value, dict):
        content[key] = content.get(key, {}) | value
    else:
        content[key] = value
    package = "# @package _global_\n" if text.startswith("# @package _global_") else ""
    (conf / file).write_text(package + yaml.safe_dump(content))
    arguments = ["experiment=smoke"] if "experiment" in file else []
    said = command_line(*arguments, f"run_dir={tmp_path / 'run'}", config=conf)
    assert said.endswith(f"error {message}")


def test_a_file_that_is_no_yaml_is_named(tmp_path: Path) -> None:
    conf = shutil.copytree(CONF, tmp_path / "conf")
    with open(conf / "trainer" / "cpu.yaml", "a") as file:
        file.write("accelerator: twice\n")
    said = command_line(f"run_dir={tmp_path / 'run'}", config=conf)
    assert "error a configuration file is not valid YAML:" in said
    assert "duplicate key accelerator" in said
    assert "conf/trainer/cpu.yaml" in said


def test_who_has_seen_enough_of_the_output_sees_no_traceback() -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "generate.py", "--help"]
    buffered = {**os.environ, "PYTHONUNBUFFERED": ""}
    finished = subprocess.run(
        command, stdout=write, stderr=subprocess.PIPE, text=True, cwd=ROOT, timeout=120, env=buffered
    )
    os.close(write)
    assert (finished.stderr, finished.returncode) == ("", 1)
