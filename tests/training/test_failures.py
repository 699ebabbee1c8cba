"""What goes wrong in a run is said clearly, and costs nothing that was already there."""

from __future__ import annotations

import errno
import json
import os
import pickle
import re
import resource
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from launch import doomed, small, train
from pytorch_lightning.utilities import rank_zero_only
from torch._utils import ExceptionWrapper
from torch.utils.data import DataLoader, Dataset

from wan_alpha.command import run_command
from wan_alpha.data.errors import DataError, StoreError
from wan_alpha.data.folders import FolderSource
from wan_alpha.data.order import locate
from wan_alpha.models.assets import asset
from wan_alpha.models.base import BaseError
from wan_alpha.stages.vae import AlphaVAEModule
from wan_alpha.training.checkpoints import AtomicCheckpointIO, CheckpointError, last_checkpoint, read_header
from wan_alpha.training.config import RunConfig
from wan_alpha.training.guards import DataLossError, NonFiniteLossError
from wan_alpha.training.metrics_csv import MetricsCSV
from wan_alpha.training.run import find_checkpoint

NO_VALIDATION = "trainer.val_every_n_steps=0"


@pytest.fixture(scope="module")
def half(wan22: Path, clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps that can be continued."""
    run_dir = tmp_path_factory.mktemp("half")
    train(*small(wan22, clips, run_dir, "trainer.max_steps=2", "optim.decay_share=0", NO_VALIDATION))
    return run_dir


def more(base: Path, clips: Path, run_dir: Path, *overrides: str) -> None:
    """Continue `half` (or a copy of it) to step 4."""
    train(*small(base, clips, run_dir, "trainer.max_steps=4", "optim.decay_share=0", NO_VALIDATION, *overrides))


def test_a_full_disk_leaves_the_previous_checkpoint_whole(wan22: Path, clips: Path, tmp_path: Path) -> None:
    command = small(wan22, clips, tmp_path, NO_VALIDATION)
    code, said = doomed("full disk", 4, *command)
    assert code == 1
    assert re.search(r"could not write .*step-00000004.ckpt \(\d+ MiB free\): .*File too large", said)
    assert f"last whole checkpoint is {tmp_path / 'checkpoints' / 'step-00000002.ckpt'}" in said
    assert "free some space and run the same command again" in said
    assert [f.name for f in (tmp_path / "checkpoints").iterdir()] == ["step-00000002.ckpt"]
    train(*command)
    train(*small(wan22, clips, tmp_path / "whole", NO_VALIDATION))
    adapters = [(run / "adapters" / "adapters.safetensors").read_bytes() for run in (tmp_path, tmp_path / "whole")]
    assert adapters[0] == adapters[1]


def test_a_full_disk_at_the_export_is_a_sentence_and_it_is_made_again(wan22: Path, clips: Path, tmp_path: Path) -> None:
    command = small(wan22, clips, tmp_path, NO_VALIDATION)
    code, said = doomed("full disk at the export", 6, *command)
    assert code == 1
    last = tmp_path / "checkpoints" / "step-00000004.ckpt"
    assert re.search(rf"^error could not write what was learned to {tmp_path}: .*File too large", said), said
    assert f"The last whole checkpoint is {last}; free some space and run the same command again" in said
    train(*command)
    assert (tmp_path / "adapters" / "adapters.safetensors").exists()


def test_a_full_disk_is_a_sentence_wherever_it_is_met(capsys: pytest.CaptureFixture[str]) -> None:
    def draw() -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "panels/step-4.png")

    assert told(draw, capsys).endswith(
        "No space left on device: 'panels/step-4.png'; free some space and run the same command again"
    )


def test_a_place_where_nobody_may_write_is_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    def make() -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "runs")

    assert "Permission denied: 'runs'; give files that you may read and a place where you may" in told(make, capsys)


def test_what_is_not_shipped_is_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert told(lambda: asset("tiny-one"), capsys).startswith("error asset 'tiny-one'")


def told(command: Callable[[], Any], capsys: pytest.CaptureFixture[str]) -> str:
    """What an entry point says whose command fails in a sentence."""
    with pytest.raises(SystemExit) as ended:
        run_command(command, RunConfig)
    assert ended.value.code == 1
    return " ".join(capsys.readouterr().err.split())


def test_what_a_loader_process_has_met_is_said_without_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    try:
        raise StoreError("http://store gives no answer: start again") from OSError("refused")
    except StoreError:
        met = ExceptionWrapper(where="in DataLoader worker process 0")  # what torch hands over
    assert told(met.reraise, capsys) == "error http://store gives no answer: start again"


def test_a_loader_process_that_is_killed_is_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    """As by a machine that has run out of memory."""
    loader = DataLoader(Deadly(), num_workers=1)
    said = told(lambda: next(iter(loader)), capsys)
    assert re.search(
        r"^error a loader process is gone: DataLoader worker \(pid.* run out of memory: take a smaller", said
    )


class Deadly(Dataset[int]):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, n: int) -> int:
        os.kill(os.getpid(), signal.SIGKILL)
        return n


def test_a_full_disk_costs_no_row_of_the_metrics(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    table = MetricsCSV(tmp_path)
    table.log_metrics({"train/loss": 1.0}, 1)
    table.save()
    before = table.file.read_bytes()
    for step in range(2, 20_000):
        table.log_metrics({"train/loss": 1.0}, step)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))  # a file system that takes no more
    try:
        table.save()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "metrics.csv could not be written" in caplog.text
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.csv"]
    assert table.file.read_bytes() == before
    table.save()
    assert len(table.file.read_text().splitlines()) == 20_000


def test_the_leftover_of_a_killed_write_is_no_checkpoint(half: Path, tmp_path: Path) -> None:
    shutil.copytree(half / "checkpoints", tmp_path / "checkpoints")
    whole = last_checkpoint(tmp_path)
    assert whole is not None
    (tmp_path / "checkpoints" / "step-00000099.ckpt.tmp").write_bytes(whole.read_bytes()[:1000])
    assert last_checkpoint(tmp_path) == whole


def test_whose_run_a_checkpoint_is_is_told_without_reading_its_tensors(half: Path) -> None:
    """They may have gigabytes, and are read when the run goes on: here the file is mapped into memory."""
    checkpoint = last_checkpoint(half)
    assert checkpoint is not None
    header = read_header(checkpoint)
    assert header["global_step"] == 2
    assert str(checkpoint) in Path("/proc/self/maps").read_text()


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("a pickle was run",)


@pytest.mark.parametrize("content", ["pickle", "truncated", "empty"])
def test_pickles_and_damaged_checkpoints_are_refused(
    content: str, half: Path, wan22: Path, clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "step-00000002.ckpt"
    if content == "pickle":
        torch.save({"state_dict": Evil()}, file)
    else:
        whole = last_checkpoint(half)
        assert whole is not None
        file.write_bytes(whole.read_bytes()[: 5000 if content == "truncated" else 0])
    with pytest.raises(CheckpointError, match="is not a checkpoint that loads without pickles") as caught:
        more(wan22, clips, tmp_path / "run", f"ckpt_path={file}")
    assert str(file) in str(caught.value)
    assert "a pickle was run" not in capsys.readouterr().out
    plain = tmp_path / "plain.ckpt"
    plain.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(CheckpointError, match="loads without pickles"):
        AtomicCheckpointIO().load_checkpoint(plain)


def test_ckpt_path_names_a_file_or_a_run_or_nothing(half: Path, wan22: Path, clips: Path, tmp_path: Path) -> None:
    checkpoint = last_checkpoint(half)
    renamed = tmp_path / "mine.ckpt"
    assert checkpoint is not None
    shutil.copy(checkpoint, renamed)
    for name, path in {"file": checkpoint, "run": half, "renamed": renamed}.items():
        more(wan22, clips, tmp_path / name, f"ckpt_path={path}")
        # Only the rows of the continued part are there: it did start at step 2.
        lines = (tmp_path / name / "metrics.csv").read_text().splitlines()
        assert len(lines) == 1 + 2, name
    adapters = [(tmp_path / n / "adapters" / "adapters.safetensors").read_bytes() for n in ("file", "run", "renamed")]
    assert adapters[0] == adapters[1] == adapters[2]
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    with pytest.raises(CheckpointError, match=r"other.ckpt was not written by train.py"):
        more(wan22, clips, tmp_path / "other", f"ckpt_path={tmp_path / 'other.ckpt'}")
    with pytest.raises(CheckpointError, match=r"ckpt_path=.*nowhere: no checkpoint there; give a .ckpt file"):
        more(wan22, clips, tmp_path / "missing", f"ckpt_path={tmp_path / 'nowhere'}")


def test_one_of_several_ranks_says_where_the_run_goes_on(
    half: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for rank in range(2):
        monkeypatch.setattr(rank_zero_only, "rank", rank)
        assert find_checkpoint("auto", half) == last_checkpoint(half)
    assert capsys.readouterr().out.count("continuing") == 1


def test_starting_anew_in_the_same_directory_forgets_what_was_there(
    half: Path, wan22: Path, clips: Path, tmp_path: Path
) -> None:
    shutil.copytree(half, tmp_path / "again")
    before = (half / "adapters" / "adapters.safetensors").read_bytes()
    command = ["ckpt_path=null", "seed=5", "trainer.max_steps=1", NO_VALIDATION]
    train(*small(wan22, clips, tmp_path / "again", *command))
    assert (tmp_path / "again" / "adapters" / "adapters.safetensors").read_bytes() != before
    found = last_checkpoint(tmp_path / "again")
    assert found is not None
    assert found.name == "step-00000001.ckpt"  # not the older run's step 2
    assert len((tmp_path / "again" / "metrics.csv").read_text().splitlines()) == 1 + 1


def test_going_back_to_an_earlier_checkpoint_forgets_the_later_ones(wan22: Path, clips: Path, tmp_path: Path) -> None:
    command = small(wan22, clips, tmp_path, NO_VALIDATION, "optim.decay_share=0", "trainer.keep_checkpoints=9")
    train(*command)
    back = tmp_path / "checkpoints" / "step-00000002.ckpt"
    later = [tmp_path / "checkpoints" / f"step-0000000{n}.ckpt" for n in (4, 6)]
    written = [file.stat().st_mtime_ns for file in later]
    train(*command, f"ckpt_path={back}", "trainer.max_steps=4")
    assert last_checkpoint(tmp_path) == later[0]
    assert later[0].stat().st_mtime_ns > written[0]


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("optim.lr=0.02", r"optim.lr: 0.01 -> 0.02"),
        ("seed=3", r"seed: 0 -> 3"),
        ("data.size=[24,16]", r"data.size: \[16, 16\] -> \[24, 16\]"),
        ("model.lora.rank=3", r"model.lora.rank: 2 -> 3"),
        ("data.batch_size=1", r"global batch: 2 -> 1"),
    ],
)
def test_another_configuration_does_not_continue_a_run(
    override: str, named: str, half: Path, wan22: Path, clips: Path
) -> None:
    before = {f: f.stat().st_mtime_ns for f in half.rglob("*") if f.is_file()}
    with pytest.raises(CheckpointError, match=rf"another configuration:\n  {named}\nSet these keys back, choose"):
        more(wan22, clips, half, override)
    assert {f: f.stat().st_mtime_ns for f in half.rglob("*") if f.is_file()} == before


def test_a_checkpoint_from_before_a_key_existed_goes_on_at_its_neutral_value(
    half: Path, wan22: Path, clips: Path, tmp_path: Path
) -> None:
    found = last_checkpoint(half)
    assert found is not None
    state, old = torch.load(found, weights_only=True), tmp_path / "old.ckpt"
    del state["run_config"]["loss"]["weights"]["mse"]
    torch.save(state, old)
    with pytest.raises(CheckpointError, match=r"configuration:\n  loss.weights.mse: 0.0 -> 1\nSet"):
        more(wan22, clips, tmp_path / "other", f"ckpt_path={old}", "loss.weights.mse=1")
    more(wan22, clips, tmp_path / "same", f"ckpt_path={old}", "loss.weights.mse=0")
    assert last_checkpoint(tmp_path / "same") is not None


def test_other_data_do_not_continue_a_run(half: Path, wan22: Path, clips: Path, tmp_path: Path) -> None:
    shutil.copytree(clips, tmp_path / "clips")
    shutil.copytree(clips / "disc0", tmp_path / "clips" / "disc99")
    with pytest.raises(CheckpointError, match=r"data manifest"):
        more(wan22, tmp_path / "clips", half)


def test_a_nan_stops_the_run_and_names_the_batch(
    wan22: Path, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = AlphaVAEModule.training_step
    poisoned: list[str] = []

    def poison(self: AlphaVAEModule, batch: dict, batch_idx: int) -> torch.Tensor:
        if self.trainer.global_step == 3:
            batch["rgb"][0, 0, 0, 0, 0] = float("nan")
            batch["alpha"][0, 0, 0, 0, 0] = 1
            poisoned.extend(batch["key"])
        return step(self, batch, batch_idx)

    monkeypatch.setattr(AlphaVAEModule, "training_step", poison)
    with pytest.raises(NonFiniteLossError, match=r"the loss is nan at step 3, for the batch") as caught:
        train(*small(wan22, clips, tmp_path, NO_VALIDATION))
    assert poisoned
    assert str(poisoned) in str(caught.value)
    checkpoint = last_checkpoint(tmp_path)
    assert checkpoint is not None
    assert f"{checkpoint} holds the last good state" in str(caught.value)
    state = torch.load(checkpoint, weights_only=True)
    assert state["global_step"] == 2
    assert all(t.isfinite().all() for t in state["state_dict"].values())
    monkeypatch.undo()
    train(*small(wan22, clips, tmp_path, NO_VALIDATION))  # the last good state goes on


def test_weights_that_are_not_finite_are_never_saved(
    wan22: Path, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = AlphaVAEModule.training_step

    def ruin(self: AlphaVAEModule, batch: dict, batch_idx: int) -> torch.Tensor:
        loss = step(self, batch, batch_idx)
        if self.trainer.global_step == 3:  # finite loss, infinite gradient
            loss.register_hook(lambda gradient: gradient * float("inf"))
        return loss

    monkeypatch.setattr(AlphaVAEModule, "training_step", ruin)
    with pytest.raises(NonFiniteLossError, match=r"weights are not finite after step 4 .*not saved") as caught:
        train(*small(wan22, clips, tmp_path, NO_VALIDATION))
    assert re.search(r"after the batch \['disc\d', 'disc\d'\]", str(caught.value))
    assert f"{last_checkpoint(tmp_path)} holds the last good state" in str(caught.value)
    assert [f.name for f in (tmp_path / "checkpoints").iterdir()] == ["step-00000002.ckpt"]


def damaged_clips(clips: Path, where: Path, count: int) -> Path:
    """Clips that open, because the frames that opening looks at are left as they are, and cannot be read."""
    shutil.copytree(clips, where)
    for number in range(count):
        for frame in (1, 3, 4):
            file = where / f"disc{number}" / f"{frame}.png"
            file.write_bytes(file.read_bytes()[:60] + b"\0" * 60)
    return where


def test_a_few_unreadable_clips_are_skipped_and_listed(
    wan22: Path, clips: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    damaged = damaged_clips(clips, tmp_path / "clips", 2)
    run_dir = tmp_path / "run"
    command = small(wan22, damaged, run_dir, NO_VALIDATION, "data.max_corrupt_share=0.5", "data.val_share=0.01")
    train(*command)
    problems = [json.loads(line) for line in (run_dir / "data_problems.jsonl").read_text().splitlines()]
    source = FolderSource(damaged, "train", val_share=0.01)
    order = [source.clips[locate(n, len(source), seed=0)[1]].key for n in range(6 * 2)]
    assert [problem["step"] for problem in problems] == [n // 2 for n in range(12) if order[n] in ("disc0", "disc1")]
    assert problems
    assert all(re.search(r"disc[01]/1.png", problem["problem"]) for problem in problems)
    counted = f"{len(problems)} of 12 samples could not be read, and others took their places; they are listed in "
    assert f"{counted}{run_dir / 'data_problems.jsonl'}" in caplog.text
    assert (run_dir / "adapters" / "adapters.safetensors").exists()
    # Continued, the run meets the same clips again, and lists each sample once.
    other = tmp_path / "killed"
    again = [part.replace(str(run_dir), str(other)) for part in command]
    assert doomed("before the backward pass", 5, *again).code == -9
    with open(other / "data_problems.jsonl", "a") as file:
        file.write('{"step": 4, "prob')  # as of a disk that was full
    train(*again)
    assert (other / "data_problems.jsonl").read_text() == (run_dir / "data_problems.jsonl").read_text()


def test_too_many_unreadable_clips_stop_the_run(wan22: Path, clips: Path, tmp_path: Path) -> None:
    damaged = damaged_clips(clips, tmp_path / "clips", 4)
    with pytest.raises(DataLossError, match=r"\d of \d samples could not be read, more than"):
        train(*small(wan22, damaged, tmp_path / "run", NO_VALIDATION, "data.max_corrupt_share=0.01"))
    assert "disc" in (tmp_path / "run" / "data_problems.jsonl").read_text()


def test_no_data_and_no_base_are_said_at_once(wan22: Path, clips: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere: expected a folder of clips"):
        train(*small(wan22, tmp_path / "nowhere", tmp_path / "run"))
    with pytest.raises(BaseError, match=r"nowhere.*existing path"):
        train(*small(tmp_path / "nowhere", clips, tmp_path / "run"))


def test_frames_that_the_base_cannot_take_are_refused(wan22: Path, clips: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a clip has 6 frames; Wan takes 1 \+ 4k"):
        train(*small(wan22, clips, tmp_path / "run", "data.num_frames=6"))
    with pytest.raises(ValueError, match=r"frames are 20 x 16; this base takes multiples of 8"):
        train(*small(wan22, clips, tmp_path / "run", "data.size=[20,16]"))


def test_ctrl_c_ends_in_a_sentence_and_a_usable_state(wan22: Path, clips: Path, tmp_path: Path) -> None:
    command = small(wan22, clips, tmp_path, NO_VALIDATION)
    assert doomed("interrupt", 3, *command) == (
        130,
        "error interrupted; the same command continues from the last checkpoint",
    )
    train(*command)
    assert (tmp_path / "adapters" / "adapters.json").exists()
