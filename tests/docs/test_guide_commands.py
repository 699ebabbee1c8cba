"""Every command of the guide: run, with small inputs in the place of the reader's, or composed, where it needs GPUs.

A command that no rule below knows fails; so does a rule that no command needs.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from http.client import HTTPConnection
from pathlib import Path
from typing import NamedTuple

import hydra
import pytest
from omegaconf import OmegaConf
from pages import ROOT
from test_operations import config_of, ranks, stand_ins

from data_prep import cli
from data_prep import encode as encode_step
from data_prep.encoder import Options
from wan_alpha import verify, wandb_dashboard
from wan_alpha.command import validated
from wan_alpha.evaluating.config import EvaluateConfig
from wan_alpha.training import run, sweep
from wan_alpha.training.entry import checked
from wan_alpha.training.identity import register_resolver
from wan_alpha.training.plan_report import print_plan

GUIDE = [ROOT / "docs" / f"{name}.md" for name in ("operations", "faults", "plan")]
SAID = "error "
"""How a block begins that shows what a command says."""


def lines(page: Path) -> list[str]:
    """The indented lines of a page, joined where a backslash ends them, without comments."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    blocks = re.findall(r"(?<=\n\n)(?: {4}\S.*\n)+", text)
    typed = [block for block in blocks if not block.strip().startswith(SAID)]
    return [line.split(" #")[0].strip() for block in typed for line in block.splitlines()]


class Place(NamedTuple):
    """What stands for the reader's own files."""

    run: Path
    here: Path


@pytest.fixture(scope="module")
def place(wan22: Path, clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A run of three steps with two checkpoints."""
    here = tmp_path_factory.mktemp("guide")
    small = [
        "stage=vae", "base=path", f"base.path={wan22}", "data=clips", f"data.root={clips}", "data.size=[16,16]",
        "data.num_frames=5", "data.batch_size=2", "data.num_workers=0", "model.lora.rank=2", "callbacks.lpips=null",
        "model.merge.residual_blocks=1", "loss.weights.perceptual=0", "callbacks.panels=false",
        "callbacks.progress=false", "trainer.accelerator=cpu", "trainer.precision=32-true", "trainer.threads=1",
        "trainer.max_steps=2", "trainer.log_every_n_steps=1", "trainer.checkpoint_every_n_steps=1",
        "trainer.val_every_n_steps=2", "logger.tensorboard=true", f"run_dir={here / 'runs' / 'NAME'}",
    ]  # fmt: skip
    register_resolver()
    with hydra.initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config, tree = checked(hydra.compose("train", small))
    run.train(config, tree)
    return Place(here / "runs" / "NAME", here)


# ----- rules: a pattern, and what is done with a command that fits ------------------------------------------------


def composed(words: list[str], place: Place) -> None:
    """A valid run, with as many processes as it says it has; what `plan=true` prints, for small clips."""
    arguments = words[words.index("train.py") + 1 :]
    config = config_of(arguments)
    if words[0] == "torchrun":
        assert ranks(words) == int(str(config.trainer.devices)) * config.trainer.num_nodes
        assert config.trainer.strategy in ("ddp", "fsdp")
    if config.plan:
        print_plan(config_of([*arguments, "data.size=[32,32]", "data.num_frames=5", "data.batch_size=1"]))


def composed_sweep(words: list[str], place: Place) -> None:
    """Its launcher and sweeper are there; a job of it is a valid run."""
    arguments = [word for word in words[2:] if word != "-m"]
    with hydra.initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        settings = hydra.compose("train", arguments, return_hydra_config=True).hydra
    for part in (settings.launcher, settings.sweeper):
        hydra.utils.get_class(part._target_)
    swept = OmegaConf.to_container(settings.sweeper.params)
    assert isinstance(swept, dict)
    first = [f"{key}={str(values).split(',')[0]}" for key, values in swept.items() if "(" not in str(values)]
    config_of([word for word in arguments if not word.startswith("hydra")] + first)


def composed_evaluation(words: list[str], place: Place) -> None:
    with hydra.initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        validated(hydra.compose("evaluate", words[2:]), EvaluateConfig)


def options_of_encode(words: list[str], place: Place) -> None:
    encode_step.check(cli.parse(Options, words[3:], "python -m data_prep.encode"))


def verified(words: list[str], place: Place) -> None:
    given = [word.replace("runs/NAME", str(place.run)) for word in words[3:]]
    steps = next((word for word in given if word.startswith("steps=")), "")
    assert verify.main([word for word in given if word != steps])  # of ten steps this run has two


def tabulated(words: list[str], place: Place) -> None:
    """The sweep is one run; another column is asked for where the named one is the other stage's."""
    folder = place.here / words[3]
    if not folder.exists():
        shutil.copytree(place.run, folder / "job")
    figure = ["val/alpha/psnr"] if len(words) > 4 else []
    sweep.main(str(folder), *figure)
    assert (folder / "sweep.png").exists()


def dashboard(words: list[str], place: Place) -> None:
    pytest.importorskip("wandb_workspaces")
    wandb_dashboard.main([*words[3:], "--json", str(place.here / "view.json")])
    assert (place.here / "view.json").exists()


def submitted(words: list[str], place: Place) -> None:
    """The script as Slurm would start it, with a stand-in for `srun`: as many ranks as Slurm was asked for."""
    at = words.index("deploy/slurm.sbatch")
    folder = Path(tempfile.mkdtemp(dir=place.here))
    directives = re.findall(r"^#SBATCH (--\S+)", (ROOT / words[at]).read_text(), re.M)
    asked = dict(word.partition("=")[::2] for word in [*directives, *words[1:at]])
    slurm = {"SLURM_JOB_NUM_NODES": asked["--nodes"], "SLURM_NTASKS_PER_NODE": asked["--ntasks-per-node"]}
    env = stand_ins(folder / "bin", "exit 0") | slurm
    subprocess.run(["bash", ROOT / words[at], *words[at + 1 :]], cwd=folder, env=env, timeout=60, check=True)
    config = config_of((folder / "srun.said").read_text().splitlines()[2:])
    nodes, tasks = int(asked["--nodes"]), int(asked["--ntasks-per-node"])
    assert (config.trainer.num_nodes, config.trainer.devices) == (nodes, tasks)
    assert nodes * tasks * config.data.batch_size == {4: 32, 1: 16}[nodes]  # as the guide says


def served(words: list[str], place: Place) -> None:
    """TensorBoard answers on this machine's own address with the run's curves."""
    program = Path(sys.executable).with_name(words[0])
    command = [program, *words[1:], "--port=0"]
    with subprocess.Popen(command, cwd=place.here, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stderr is not None
            ports = (re.search(r"http://localhost:(\d+)/", line) for line in server.stderr)
            port = next(int(found[1]) for found in ports if found)
            until, tags = time.monotonic() + 60, ""
            while "train/loss" not in tags and time.monotonic() < until:  # it reads while it answers
                connection = HTTPConnection("127.0.0.1", port, timeout=30)
                connection.request("GET", "/data/plugin/scalars/tags")
                tags = connection.getresponse().read().decode()
                connection.close()
                time.sleep(0.1)
            assert set(json.loads(tags)) == {"NAME/tensorboard"}
            assert "train/loss" in tags
        finally:
            server.terminate()


def elsewhere(test: str) -> Callable[[list[str], Place], None]:
    """Another program's command, which that test runs, or whose file it checks."""

    def check(words: list[str], place: Place) -> None:
        file, _, name = test.partition("::")
        text = (ROOT / file).read_text()
        assert f"def {name}(" in text
        assert all((ROOT / word).is_file() for word in words if word.startswith("deploy/"))

    return check


RULES = {
    r"(python|torchrun .*) train\.py (?!-m)": composed,
    r"python train\.py -m ": composed_sweep,
    r"python evaluate\.py ": composed_evaluation,
    r"python -m data_prep\.encode ": options_of_encode,
    r"python -m wan_alpha\.verify ": verified,
    r"python -m wan_alpha\.training\.sweep ": tabulated,
    r"python -m wan_alpha\.wandb_dashboard ": dashboard,
    r"sbatch ": submitted,
    r"kubectl apply ": elsewhere("tests/docs/test_operations.py::test_kubernetes_would_take_the_manifests"),
    r"wandb (sweep|agent) ": elsewhere("tests/training/test_sweep_launchers.py::test_what_a_wandb_sweep_starts_runs"),
    r"wandb sync ": elsewhere("tests/training/test_dead_services.py::test_what_was_kept_offline_is_sent_later"),
    r"tensorboard ": served,
}


def rule(line: str) -> str:
    """The one that knows a command."""
    (found,) = [pattern for pattern in RULES if re.match(pattern, line)] or [""]
    assert found, f"no rule knows how to try this command: {line}"
    return found


COMMANDS = [(page.stem, line) for page in GUIDE for line in lines(page)]


def test_every_rule_is_needed_and_the_pages_have_their_commands() -> None:
    assert {rule(line) for _, line in COMMANDS} == set(RULES)
    assert {page for page, _ in COMMANDS} == {"operations", "plan"}  # faults.md shows what is said, nothing to type
    assert len(COMMANDS) >= 30


@pytest.mark.parametrize(("page", "line"), COMMANDS)
def test_a_command_of_the_guide(page: str, line: str, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["test"])
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "4")
    monkeypatch.setenv("SLURM_NTASKS_PER_NODE", "8")
    RULES[rule(line)](shlex.split(line), place)


@pytest.mark.parametrize(
    "line",
    ["python train.py stage=vae traner.devices=2", "python -m wan_alpha.verify runs/NAME stps=2",
     "python train.py -m experiment=ablation_dit hydra/launcher=nothing", "python -m data_prep.encode root=A outt=B",
     "python evaluate.py task=reconstruction adapter=tiny out=report", "python -m wan_alpha.verfy runs/NAME"],
)  # fmt: skip
def test_a_mistyped_one_would_be_seen(line: str, place: Place) -> None:
    with pytest.raises((Exception, SystemExit)):
        RULES[rule(line)](shlex.split(line), place)
