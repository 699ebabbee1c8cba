"""The files of deploy/ start valid runs, and do what the guide says of them."""

from __future__ import annotations

import itertools
import json
import math
import os
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import hydra
import jsonschema
import pytest
import yaml
from omegaconf import DictConfig, OmegaConf
from pages import ROOT, commands

from wan_alpha.training.config import RunConfig
from wan_alpha.training.entry import checked
from wan_alpha.training.identity import register_resolver

DEPLOY = ROOT / "deploy"


def config_of(arguments: list[str]) -> RunConfig:
    """What `train.py ARGUMENTS` would run."""
    register_resolver()
    with hydra.initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return checked(hydra.compose("train", arguments))[0]


def ranks(line: list[str]) -> int:
    """Processes that torchrun starts on all machines together."""
    options = dict(word.lstrip("-").partition("=")[::2] for word in line if word.startswith("--"))
    return int(options.get("nnodes", 1)) * int(options["nproc_per_node"])


def test_the_guides_commands_are_valid_runs() -> None:
    lines = [line for line in commands(ROOT / "docs" / "operations.md") if "train.py" in line and "-m" not in line]
    assert len(lines) >= 6
    for line in lines:
        config = config_of(line[line.index("train.py") + 1 :])
        if line[0] == "torchrun":
            assert ranks(line) == int(str(config.trainer.devices)) * config.trainer.num_nodes
            assert config.trainer.strategy in ("ddp", "fsdp")


def stand_ins(folder: Path, run: str) -> dict[str, str]:
    """`srun`, which notes what it is to start and then does `run`, and `scontrol`, which notes its words."""
    folder.mkdir()
    for name, text in (("srun", f'printf "%s\\n" "$@" > srun.tmp; mv srun.tmp srun.said; {run}'),
                       ("scontrol", 'echo "$@" > scontrol.said')):  # fmt: skip
        file = folder / name
        file.write_text(f"#!/bin/bash\n{text}\n")
        file.chmod(0o755)
    slurm = {"SLURM_JOB_ID": "42", "SLURM_JOB_NUM_NODES": "4", "SLURM_NTASKS_PER_NODE": "8"}
    return {**os.environ, **slurm, "PATH": f"{folder}:{os.environ['PATH']}"}


ARGUMENTS = ["experiment=wan_alpha_v1_vae", "data.root=SHARDS", "data.batch_size=1"]


def test_slurm_starts_one_process_per_gpu_and_passes_its_exit_code_on(tmp_path: Path) -> None:
    script = DEPLOY / "slurm.sbatch"
    finished = subprocess.run(
        ["bash", script, *ARGUMENTS], cwd=tmp_path, env=stand_ins(tmp_path / "bin", "exit 7"), timeout=60
    )
    assert finished.returncode == 7
    assert not (tmp_path / "scontrol.said").exists()  # what went wrong by itself would go wrong again
    said = (tmp_path / "srun.said").read_text().splitlines()
    assert said[:2] == [".venv/bin/python", "train.py"]
    trainer = config_of(said[2:]).trainer
    assert (trainer.num_nodes, trainer.devices, trainer.strategy, trainer.accelerator) == (4, 8, "ddp", "gpu")
    asked = dict(re.findall(r"^#SBATCH --([\w-]+)(?:=(\S+))?", script.read_text(), re.M))
    assert asked["ntasks-per-node"] == asked["gpus-per-node"]
    assert "requeue" in asked


def test_slurms_script_lets_the_run_save_and_requeues_it(tmp_path: Path) -> None:
    """Slurm signals the script and the run; a shell without a trap would end at once."""
    run = 'trap "exit 75" TERM; echo $$ > ready.tmp; mv ready.tmp ready; while :; do sleep 0.05; done'
    env = stand_ins(tmp_path / "bin", run)
    with subprocess.Popen(["bash", DEPLOY / "slurm.sbatch", *ARGUMENTS], cwd=tmp_path, env=env) as job:
        while not (tmp_path / "ready").exists():
            assert job.poll() is None
            time.sleep(0.02)
        job.send_signal(signal.SIGTERM)
        os.kill(int((tmp_path / "ready").read_text()), signal.SIGTERM)
        assert job.wait(60) == 75
    assert (tmp_path / "scontrol.said").read_text() == "requeue 42\n"
    assert "--signal=USR1@600" in (DEPLOY / "slurm.sbatch").read_text()  # not B:, which is for the script alone


def test_every_fault_names_tests_that_exist() -> None:
    page = (ROOT / "docs" / "faults.md").read_text()
    _, table, *_ = re.split(r"^\|---.*\n", page, flags=re.M)
    faults = [line for line in table.partition("\n\n")[0].splitlines() if line]
    assert len(faults) >= 14
    for row in faults:
        named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", row)
        assert named, row
        for file, test in named:
            assert f"def {test}(" in (ROOT / file).read_text(), f"{file}::{test}"


def test_kubernetes_counts_agree_and_its_run_is_valid() -> None:
    service, job = yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text())
    spec = job["spec"]
    pod: dict[str, Any] = spec["template"]["spec"]
    (container,) = pod["containers"]
    command = container["command"]
    config = config_of(command[command.index("train.py") + 1 :])
    assert spec["completions"] == spec["parallelism"] == config.trainer.num_nodes
    assert container["resources"]["limits"]["nvidia.com/gpu"] == config.trainer.devices
    assert ranks(command) == 32
    assert spec["completionMode"] == "Indexed"
    name = job["metadata"]["name"]
    assert f"--master_addr={name}-0.{service['metadata']['name']}" in command
    assert pod["subdomain"] == service["metadata"]["name"]
    assert spec["template"]["metadata"]["labels"].items() >= service["spec"]["selector"].items()
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert set(mounts) == {volume["name"] for volume in pod["volumes"]}
    assert config.run_dir.startswith(mounts["data"])
    assert str(config.data.root).startswith(mounts["data"])


def test_kubernetes_would_take_the_manifests() -> None:
    """Strictly: a key that Kubernetes does not know, or a value of another kind, is an error."""
    schemas = json.loads((ROOT / "tests" / "fixtures" / "kubernetes-1.37.json").read_text())
    for manifest in yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text()):
        schema = jsonschema.Draft202012Validator(schemas | {"$ref": f"#/$defs/{manifest['kind']}"})
        schema.validate(manifest)
        manifest["spec"]["paralelism"] = 4
        assert not schema.is_valid(manifest)


def ends(limits: dict[str, Any]) -> list[Any]:
    """What a parameter of a W&B sweep takes: all its values, or both ends of its range."""
    return limits["values"] if "values" in limits else [limits["min"], limits["max"]]


@pytest.mark.parametrize("name", ["wandb_sweep", "wandb_ablation"])
def test_the_wandb_sweeps_have_valid_keys_and_a_metric_that_is_logged(name: str) -> None:
    """What they start is run in tests/training/test_sweep_launchers.py."""
    sweep = yaml.safe_load((DEPLOY / f"{name}.yaml").read_text())
    fixed = [word for word in sweep["command"] if "=" in word]
    columns = [[f"{key}={value}" for value in ends(limits)] for key, limits in sweep["parameters"].items()]
    for chosen in zip(*columns, strict=True):
        config = config_of([*fixed, *chosen])
        assert config.logger.wandb.mode == "online"
        assert config.trainer.max_steps % config.trainer.val_every_n_steps == 0  # the metric is there at the end
    assert sweep["program"] == "train.py"
    assert sweep["command"][-1] == "${args_no_hyphens}"
    assert sweep["metric"]["name"] == "val/soft/psnr"  # as tests/test_config.py finds it in metrics.csv


@pytest.mark.parametrize(("name", "jobs"), [("ablation_dit", 4), ("ablation_vae", 3), ("merge_init", 6)])
def test_ablations_are_ready_sweeps(name: str, jobs: int) -> None:
    with hydra.initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        tree: DictConfig = hydra.compose("train", [f"experiment={name}"], return_hydra_config=True)
    params = OmegaConf.to_container(tree.hydra.sweeper.params)
    assert isinstance(params, dict)
    counts = [len(str(values).split(",")) for values in params.values()]
    assert jobs == math.prod(counts)
    given = [[f"{key}={value}" for value in str(values).split(",")] for key, values in params.items()]
    assert len({config_of([f"experiment={name}", *job]).run_dir for job in itertools.product(*given)}) == jobs


def test_the_rows_of_the_papers_ablation_are_what_they_are_called() -> None:
    def row(name: str) -> tuple[str, float]:
        loss = config_of(["experiment=ablation_vae", f"ablation={name}"]).loss
        assert loss is not None
        return loss.render, loss.prior.weight

    assert [row(n) for n in ("naive", "rendering", "prior")] == [("none", 0.0), ("soft_hard", 0.0), ("soft_hard", 0.1)]
