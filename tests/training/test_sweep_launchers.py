"""Sweeps by the launchers and the sweeper that the guide names: joblib, submitit on Slurm, Optuna."""

from __future__ import annotations

import csv
import json
import logging
import os
import re
import runpy
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra.core.global_hydra import GlobalHydra
from hydra.core.singleton import Singleton
from hydra.errors import HydraException
from joblib.externals.loky import get_reusable_executor
from launch import ROOT, compose, small, train
from wandb_server import PROJECT, WandbServer

from wan_alpha.command import _composition_sentence
from wan_alpha.training import sweep
from wan_alpha.training.config import RunConfig
from wan_alpha.training.objective import ObjectiveError, objective


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """`python train.py ...` in this process; what Hydra sets for a whole process is put back."""
    state, handlers, level = Singleton.get_state(), logging.root.handlers[:], logging.root.level

    def start(*arguments: str) -> None:
        GlobalHydra.instance().clear()
        monkeypatch.setattr(sys, "argv", [str(ROOT / "train.py"), *arguments])
        runpy.run_path(str(ROOT / "train.py"), run_name="__main__")

    yield start
    get_reusable_executor(reuse=True).shutdown(wait=True, kill_workers=True)  # joblib's processes would wait for more
    Singleton.set_state(state)
    GlobalHydra.instance().clear()
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)


def arguments(base: Path, clips: Path, folder: Path, *more: str) -> list[str]:
    """A job of a second, without a run_dir and a rate: a sweep gives each its own."""
    given = small(base, clips, folder, "trainer.val_every_n_steps=2", "trainer.max_steps=2", *more)
    return [a for a in given if not a.startswith(("run_dir", "optim.lr"))] + [f"hydra.sweep.dir={folder}"]


def last(file: Path, column: str) -> float:
    with open(file, newline="") as table:
        return [float(row[column]) for row in csv.DictReader(table) if row[column]][-1]


@pytest.mark.timeout(900)
def test_optuna_goes_on_where_it_was_and_joblib_runs_its_jobs(
    wan22: Path, clips: Path, tmp_path: Path, command: Callable[..., None], capfd: pytest.CaptureFixture[str]
) -> None:
    """One trial; then the same command with two: the first answers from its files, the second runs in a process."""
    given = ["-m", "experiment=search_vae", "hydra.sweeper.n_jobs=1", *arguments(wan22, clips, tmp_path)]
    command(*given, "hydra.sweeper.n_trials=1")
    (first,) = [file.parent for file in tmp_path.glob("*/metrics.csv")]
    written = (first / "metrics.csv").stat().st_mtime_ns
    command(*given, "hydra.sweeper.n_trials=2", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    runs = [file.parent for file in tmp_path.glob("*/metrics.csv")]
    assert len(runs) == 2
    assert (first / "metrics.csv").stat().st_mtime_ns == written
    assert "finished at step 2 before" in capfd.readouterr().out
    best = yaml.safe_load((tmp_path / "optimization_results.yaml").read_text())
    assert best["best_value"] == pytest.approx(max(last(run / "metrics.csv", "val/soft/psnr") for run in runs))
    assert set(best["best_params"]) == {
        "loss.weights.edge", "loss.weights.alpha", "loss.weights.soft", "optim.lr"
    }  # fmt: skip
    sweep.main(str(tmp_path))
    assert "| loss.weights.alpha |" in (tmp_path / "sweep.md").read_text()
    assert len((tmp_path / "sweep.md").read_text().splitlines()) == 4


SLURM = {
    # Starts what it is given as job 7, and notes the script.
    "sbatch": 'cp "$1" "$HERE/script"\n("$HERE/bin/start" >/dev/null 2>&1 &)\necho "Submitted batch job 7"',
    "start": "export SLURM_JOB_ID=7 SLURM_NTASKS=1 SLURM_NNODES=1 SLURM_PROCID=0 SLURM_LOCALID=0 SLURM_NODEID=0 "
    'SLURM_JOB_NODELIST=here SLURM_NTASKS_PER_NODE=1\nbash "$HERE/script" >> "$HERE/log" 2>&1',
    # The run tells itself that its machine is taken away, as Slurm would, once: see `SITE`.
    "srun": "while [[ $1 == -* ]]; do [[ $1 == *=* || $1 == --unbuffered ]] && shift || shift 2; done\n"
    'PYTHONPATH="$HERE/site:$PYTHONPATH" exec "$@"',
    "scontrol": 'echo "$@" >> "$HERE/scontrol.said"\n("$HERE/bin/start" >/dev/null 2>&1 &)',
    "sacct": 'printf "JobID|State|NodeList\\n7|RUNNING|here\\n"',
}

SITE = """
import os, pathlib, signal, sys

told = pathlib.Path(os.environ["HERE"]) / "preempted"

def tell(event, arguments):
    if event == "os.rename" and str(arguments[1]).endswith("step-00000002.ckpt") and not told.exists():
        told.touch()
        os.kill(os.getpid(), getattr(signal, os.environ["TOLD_BY"]))

sys.addaudithook(tell)
"""
"""A sitecustomize: a signal at the very moment at which the first checkpoint is complete."""


@pytest.mark.timeout(900)  # two processes start one after the other
def test_a_preempted_job_on_slurm_is_queued_again_and_goes_on(
    wan22: Path, clips: Path, tmp_path: Path, command: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """submitit's own script and signal handling, with stand-ins for Slurm's commands."""
    (tmp_path / "bin").mkdir()
    for name, text in SLURM.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(SITE)
    monkeypatch.setenv("HERE", str(tmp_path))
    monkeypatch.setenv("TOLD_BY", "SIGTERM")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    more = ["hydra/launcher=slurm", "hydra.launcher.gpus_per_node=null", "trainer.max_steps=6"]
    given = arguments(wan22, clips, tmp_path / "sweep", "trainer.val_every_n_steps=6", *more)
    command("-m", *given, "seed=3")
    assert (tmp_path / "scontrol.said").read_text().split() == ["requeue", "7"]
    (table,) = (tmp_path / "sweep").glob("*/metrics.csv")
    assert last(table, "step") == 6
    starts = json.loads((table.parent / "environment.json").read_text())["starts"]
    first, second = (start["step"] for start in starts)
    assert first == 0
    assert 2 <= second < 6  # not from the beginning
    script = (tmp_path / "script").read_text()
    assert "#SBATCH --ntasks-per-node=1" in script
    assert "#SBATCH --time=1440" in script


def dealt(file: Path, values: dict[str, Any], here: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The words that `wandb sweep FILE` and `wandb agent ID` start a run with, from a stand-in for W&B's server.

    The agent finds a train.py that notes its arguments.
    """
    (here / "train.py").write_text(
        "import json, os, sys\njson.dump(sys.argv, open('tmp', 'w'))\nos.rename('tmp', 'told')"
    )
    for name, value in {"WANDB_API_KEY": "0" * 40, "WANDB_ENTITY": "e"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("WANDB_SILENT", raising=False)  # what `wandb sweep` says is looked at
    bin_dir = Path(sys.executable).parent
    monkeypatch.setenv("PATH", f"{bin_dir}:{os.environ['PATH']}")
    run = {"type": "run", "run_id": "r", "program": "train.py", "args": {k: {"value": v} for k, v in values.items()}}
    created = {"sweep": {"name": "s", "project": PROJECT}, "configValidationWarnings": []}
    with WandbServer(
        UpsertSweep={"upsertSweep": created},
        CreateAgent={"createAgent": {"agent": {"id": "a"}}},
        Heartbeat={"agentHeartbeat": {"agent": {"id": "a"}, "commands": json.dumps([run])}},
    ) as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        made = subprocess.run([bin_dir / "wandb", "sweep", file], cwd=here, capture_output=True, text=True, timeout=120)
        (name,) = re.findall(r"wandb agent (\S+)", made.stderr)
        config = server.asked["UpsertSweep"]["config"]
        server.answers["SweepWithRuns"] = {"project": {"sweep": {"config": config, "runs": {"edges": []}}}}
        with subprocess.Popen([bin_dir / "wandb", "agent", name], cwd=here, stderr=subprocess.DEVNULL) as agent:
            while not (here / "told").exists():
                assert agent.poll() is None
                time.sleep(0.05)
            agent.kill()  # it would look for more only after seconds
    sent, written = yaml.safe_load(config), yaml.safe_load(file.read_text())
    for key, limits in sent["parameters"].items():
        assert limits.items() >= written["parameters"][key].items()  # W&B adds how values are distributed
    assert sent | {"parameters": {}} == written | {"parameters": {}}
    told: list[str] = json.loads((here / "told").read_text())
    return told[1:]


@pytest.mark.parametrize("name", ["wandb_sweep", "wandb_ablation"])
def test_what_a_wandb_sweep_starts_runs(
    name: str, wan22: Path, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """W&B's own commands, up to the words of a job; then those, offline, and two steps."""
    file = ROOT / "deploy" / f"{name}.yaml"
    content = yaml.safe_load(file.read_text())
    values = {key: v["values"][0] if "values" in v else v["min"] for key, v in content["parameters"].items()}
    with monkeypatch.context() as environment:
        words = dealt(file, values, tmp_path, environment)
    assert words[-len(values) :] == [f"{key}={value}" for key, value in values.items()]
    tiny = small(wan22, clips, tmp_path, "trainer.val_every_n_steps=2", "trainer.max_steps=2")
    train(*words, *(w for w in tiny if w.split("=")[0] not in values), "logger.wandb.mode=offline")
    assert last(tmp_path / "metrics.csv", content["metric"]["name"]) > 0
    assert list(tmp_path.glob("wandb/offline-run-*/run-*.wandb"))


def test_the_objective_is_the_last_value_of_its_column(tmp_path: Path) -> None:
    config, _ = compose("objective=val/loss", f"run_dir={tmp_path}")
    (tmp_path / "metrics.csv").write_text("step,train/loss,val/loss\n1,0.5,0.75\n2,,0.125\n3,,0.25\n4,0.125,\n")
    assert objective(config) == 0.25
    config.objective = None
    assert objective(config) is None
    config.objective = "val/los"
    with pytest.raises(ObjectiveError, match=r"no value in .*; there are: step, train/loss, val/loss"):
        objective(config)
    (tmp_path / "metrics.csv").write_text("step,val/los\n1,nan\n")
    with pytest.raises(ObjectiveError, match=r"nan in .*expected a finite number"):
        objective(config)


def test_a_launcher_that_is_not_installed_says_how_to_get_it() -> None:
    with pytest.raises(HydraException) as absent:
        compose("hydra/launcher=submitit_elsewhere")
    assert "pip install 'wan-alpha[sweeps]'" in _composition_sentence(absent.value, RunConfig)
