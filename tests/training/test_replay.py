"""`python -m wan_alpha.verify RUN`: what repeats passes, what was changed is named."""

from __future__ import annotations

import json
import math
import re
import shutil
from pathlib import Path

import pytest
import torch
from launch import small, train
from small_dit_base import write_complete_base
from test_dit_runs import small as small_dit

from wan_alpha.command import ConfigError
from wan_alpha.training.checkpoints import CHECKPOINT_DIR, AtomicCheckpointIO, CheckpointError
from wan_alpha.training.replay import compare, target_name
from wan_alpha.verify import main


@pytest.fixture(scope="module")
def finished(wan22: Path, clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints after 2, 4 and 6 steps, of which the last two are kept."""
    run_dir = tmp_path_factory.mktemp("finished")
    train(*small(wan22, clips, run_dir, "trainer.val_every_n_steps=0", "optim.decay_share=0.5"))
    return run_dir


def test_a_run_that_repeats(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted((p.name, p.stat().st_mtime_ns) for p in finished.rglob("*"))
    assert main([str(finished)])
    said = capsys.readouterr().out
    assert "steps 5 to 6" in said
    for line in ("step 5:", "step 6:", "tensors of weights: equal", "of average: equal", "of optimiser: equal"):
        assert line in said
    assert sorted((p.name, p.stat().st_mtime_ns) for p in finished.rglob("*")) == before
    assert main([str(finished), "steps=1"])
    assert "steps 5 to 5" in capsys.readouterr().out


def test_what_does_not_repeat_is_named(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    table = (run / "metrics.csv").read_text().splitlines()
    column = table[0].split(",").index("train/loss")
    row = table[6].split(",")
    row[column] = str(float(row[column]) * 1.01)
    (run / "metrics.csv").write_text("\n".join([*table[:6], ",".join(row)]) + "\n")
    file = run / "checkpoints" / "step-00000006.ckpt"
    state = torch.load(file, weights_only=True)
    next(iter(state["state_dict"].values())).mul_(1.001)
    torch.save(state, file)
    assert not main([str(run)])
    said = capsys.readouterr().out
    assert "ok  step 5" in said
    assert "BAD step 6" in said
    assert "BAD checkpoint of step 6" in said
    assert "optimiser: equal" in said
    assert main([str(run), "tolerance=0.1"])


def test_rows_of_several_steps_repeat_however_fast_they_are(
    clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Step 4's row holds losses by noise level of steps 3 and 4; that the third is in a checkpoint comes between."""
    base = write_complete_base(tmp_path / "base", adapters=True)
    more = ["trainer.checkpoint_every_n_steps=3", "trainer.val_every_n_steps=0", "callbacks.progress=true"]
    train(*small_dit(base, clips, tmp_path / "run", *more))
    assert main([str(tmp_path / "run")])
    said = capsys.readouterr().out
    assert re.search(r"step 4: \d columns of metrics.csv: equal", said)
    assert "step 5" not in said


@pytest.mark.parametrize(
    ("recorded", "taken", "size"),
    [
        ([1.0, -4.0], [1.0, -4.0], 0.0),
        ([1.0, -4.0], [2.0, -4.0], 0.25),  # whichever is larger, and whatever the sign
        ([2.0, -4.0], [1.0, -4.0], 0.25),
        ([1.0], [1.0, 2.0], math.inf),
        ([1.0], [math.nan], math.inf),
        ([1.0], None, math.inf),
        (None, [1.0], math.inf),
    ],
)
def test_the_largest_difference_of_any_tensor_counts(
    recorded: list[float] | None, taken: list[float] | None, size: float, tmp_path: Path
) -> None:
    for run, values in (("recorded", recorded), ("taken", taken)):
        state = {"same": torch.ones(2)} | ({} if values is None else {"w": torch.tensor(values)})
        content = {"state_dict": state, "callbacks": {}, "optimizer_states": []}
        AtomicCheckpointIO().save_checkpoint(content, tmp_path / run / CHECKPOINT_DIR / target_name(3))
    target = tmp_path / "recorded" / CHECKPOINT_DIR / target_name(3)
    (found,) = compare(tmp_path / "recorded", tmp_path / "taken", target, 2, 3)
    assert found.size == size


def test_another_configuration_is_told(finished: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    tree = json.loads((run / "config.json").read_text())
    tree["seed"] = 7
    (run / "config.json").write_text(json.dumps(tree))
    with pytest.raises(CheckpointError, match="seed: 0 -> 7"):
        main([str(run)])


def test_another_configuration_is_told_from_the_start_too(finished: Path, tmp_path: Path) -> None:
    """There no checkpoint refuses it: what was replayed is compared with what is recorded."""
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    (run / "checkpoints" / "step-00000004.ckpt").unlink()
    tree = json.loads((run / "config.json").read_text())
    tree["optim"]["lr"] = 0.02
    (run / "config.json").write_text(json.dumps(tree))
    with pytest.raises(CheckpointError, match=r"(?s)the replay is of another run:.*optim\.lr: 0\.01 -> 0\.02"):
        main([str(run)])


def test_a_run_of_two_ranks_is_replayed_with_its_global_batch(finished: Path, tmp_path: Path) -> None:
    """Each rank's half of the batch is what the configuration says."""
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    tree = json.loads((run / "config.json").read_text())
    tree["data"]["batch_size"] = 1
    tree["trainer"] |= {"devices": 2, "strategy": "ddp"}
    (run / "config.json").write_text(json.dumps(tree))
    assert main([str(run)])


def test_what_is_no_run_is_told(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is no run directory"):
        main([str(tmp_path)])
    shutil.copy(finished / "config.json", tmp_path)
    with pytest.raises(CheckpointError, match="has no checkpoint yet"):
        main([str(tmp_path)])
    with pytest.raises(ConfigError, match="usage: python -m"):
        main([])
    with pytest.raises(ConfigError, match="usage: python -m"):
        main([str(tmp_path), "step=3"])
    with pytest.raises(ConfigError, match="invalid literal"):
        main([str(tmp_path), "steps=many"])
    with pytest.raises(ConfigError, match="steps=-1: expected at least 1"):
        main([str(tmp_path), "steps=-1"])
    with pytest.raises(CheckpointError, match=r"lr=0\.1 is no run directory"):  # a folder may be called so
        main([str(tmp_path / "lr=0.1"), "steps=1"])
