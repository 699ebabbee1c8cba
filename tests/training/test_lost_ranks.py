"""Of several processes one is killed, stopped, or cut off with its host: the others name it, end, and can go on."""

from __future__ import annotations

import csv
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hosts import CARD, Hosts, kill_tree
from launch import ROOT, At, small, train
from lightning_fabric.strategies.launchers.subprocess_script import _ChildProcessObserver
from ranks import Ranks
from torch.distributed.distributed_c10d import _world

from wan_alpha.training import heartbeat
from wan_alpha.training.checkpoints import last_checkpoint
from wan_alpha.training.guards import DataLossError
from wan_alpha.training.preemption import TRY_AGAIN
from wan_alpha.training.watch import FINISHED, FOLLOWED, Beat, Watch

PATIENCE = 240  # seconds until a machine with other things to do has started two processes

WATCHED = ["data.batch_size=1", "optim.decay_share=0", "trainer.val_every_n_steps=0", "trainer.strategy=ddp"]


def until(condition: Callable[[], bool], what: str, *processes: subprocess.Popen[bytes]) -> None:
    """Wait for something to become true while all processes live."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, f"in vain: {what}"
        assert all(process.poll() is None for process in processes), f"ended before: {what}"
        time.sleep(0.05)


def steps(run_dir: Path) -> int:
    """The last step in metrics.csv."""
    file = run_dir / "metrics.csv"
    if not file.exists():
        return 0
    with open(file, newline="") as table:
        return max((int(row["step"]) for row in csv.DictReader(table)), default=0)


def start(log: Path, *command: str, **environment: str) -> subprocess.Popen[bytes]:
    """A process group of its own, whose words go to a file."""
    with open(log, "wb") as words:
        return subprocess.Popen(
            command, stdout=words, stderr=subprocess.STDOUT, start_new_session=True, env={**os.environ, **environment}
        )


def rank_below(process: subprocess.Popen[bytes]) -> int:
    """The one process that another has started to be a rank."""
    ids = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    (rank,) = (int(word) for word in ids if b"train.py" in Path(f"/proc/{word}/cmdline").read_bytes())
    return rank


def said(log: Path) -> str:
    return " ".join(log.read_text(errors="replace").split())


@pytest.mark.timeout(1200)
def test_a_stopped_rank_is_named_and_a_killed_one_ends_the_run(wan22: Path, clips: Path, tmp_path: Path) -> None:
    run_dir, log = tmp_path / "run", tmp_path / "log"
    command = small(wan22, clips, run_dir, *WATCHED, "trainer.devices=2", "trainer.heartbeat_s=18")
    endless = "trainer.max_steps=100000"
    process = start(log, sys.executable, str(ROOT / "train.py"), *command, endless)
    try:
        until(lambda: steps(run_dir) > 2, "steps", process)
        other = rank_below(process)
        os.kill(other, signal.SIGSTOP)
        until(lambda: "has given no sign of life" in said(log), "a warning that names the silent rank", process)
        os.kill(other, signal.SIGCONT)
        until(lambda: "is back" in said(log), "its return", process)
        reached = steps(run_dir)
        until(lambda: steps(run_dir) > reached, "more steps", process)
        os.kill(other, signal.SIGKILL)
        assert process.wait(PATIENCE) == TRY_AGAIN, said(log)
    finally:
        if process.poll() is None:
            kill_tree(process)
    assert re.search(r"rank 1 on \S+ has given no sign of life for \d+ s \(step \d+\)", said(log))
    words = r"error no sign of life for \d+ s from rank 1 on \S+ \(last seen at step \d+\): killed, stopped, or its"
    assert re.search(words, said(log))
    checkpoint = last_checkpoint(run_dir)
    assert checkpoint is not None
    reached = int(checkpoint.stem[-8:])
    alone = ["trainer.strategy=auto", "data.batch_size=2", f"trainer.max_steps={reached + 1}"]
    train(*small(wan22, clips, run_dir, *WATCHED, *alone))
    assert steps(run_dir) == reached + 1
    assert (run_dir / "adapters" / "adapters.json").exists()


def fail_on_rank_1(rank: int) -> None:
    """Called in each rank before its run."""

    def check_limits() -> None:
        limits = {g._get_backend(torch.device("cpu")).options._timeout.total_seconds() for g in _world.pg_map}
        assert limits == {77.0}, limits

    def fail() -> None:
        raise DataLossError("all gone")

    At.install("on_before_backward", 1, check_limits)
    if rank == 1:
        At.install("on_before_backward", 2, fail)


@pytest.mark.timeout(1200)
def test_a_rank_that_fails_by_itself_is_quoted_by_the_others(wan22: Path, clips: Path, tmp_path: Path) -> None:
    """Until then every communication has the limit of the configuration."""
    limits = ["trainer.heartbeat_s=12", "trainer.timeout_s=77"]
    command = small(wan22, clips, tmp_path, *WATCHED, "trainer.devices=2", *limits)
    ended = Ranks(2, *command, prepare=fail_on_rank_1).wait(PATIENCE)
    assert ended.codes == [1, 1], ended.said
    assert re.search(r"error rank 1 on \S+ ended: DataLossError: all gone", ended.said[0])
    assert "error all gone" in ended.said[1]


@pytest.mark.timeout(1200)
def test_a_lost_host_ends_the_run_and_comes_back(wan22: Path, clips: Path, tmp_path: Path) -> None:
    """The guide's command on two hosts.  The second loses its power; later it is there again."""
    run_dir = tmp_path / "run"
    training = small(wan22, clips, run_dir, *WATCHED, "trainer.devices=1", "trainer.num_nodes=2")
    training += ["trainer.heartbeat_s=12", "trainer.max_steps=100000", "data.num_workers=1"]

    def launch(hosts: Hosts, host: int, log: Path) -> subprocess.Popen[bytes]:
        torchrun = ["-m", "torch.distributed.run", "--nnodes=2", "--nproc_per_node=1", f"--node_rank={host}"]
        torchrun += ["--master_addr=10.99.0.1", "--master_port=29500", str(ROOT / "train.py")]
        command = [*hosts.inside(host), sys.executable, *torchrun, *training]
        return start(log, *command, GLOO_SOCKET_IFNAME=CARD)

    logs = [tmp_path / f"log-{host}" for host in (0, 1)]
    with Hosts() as hosts:
        runs = [launch(hosts, host, log) for host, log in enumerate(logs)]
        try:
            until(lambda: last_checkpoint(run_dir) is not None and steps(run_dir) > 2, "steps", *runs)
            hosts.cable("down")
            hosts.kill(1)
            runs[1].wait(PATIENCE)
            assert runs[0].wait(PATIENCE) == 1  # torchrun's word for any failure
            words = r"error no sign of life for \d+ s from rank 1 on host-1 \(last seen at step"
            assert re.search(words, said(logs[0]))
            assert f"exitcode : {TRY_AGAIN}" in said(logs[0])

            hosts.cable("up")
            before = int(str(last_checkpoint(run_dir))[-13:-5])
            runs = [launch(hosts, host, log) for host, log in enumerate(logs)]
            until(lambda: steps(run_dir) > before + 2, "steps after the return", *runs)
            assert f"step-{before:08d}.ckpt(ckpt_path=null" in said(logs[0]).replace(" ", "")  # continued
            runs[1].send_signal(signal.SIGTERM)  # one host is enough; torchrun hands it to the rank and its loader
            assert [run.wait(PATIENCE) for run in runs] == [1, 1]
        finally:
            for host, run in enumerate(runs):
                hosts.kill(host)
                run.wait(PATIENCE)
    found = re.search(r"error stopped by SIGTERM after step (\d+), which is saved in", said(logs[0]))
    assert found
    assert last_checkpoint(run_dir) == run_dir / "checkpoints" / f"step-{int(found[1]):08d}.ckpt"


# --- the judgement ------------------------------------------------------------------------------------------------


def watched() -> Watch:
    """Three ranks that have run for a while, at second 100."""
    watch = Watch([0, 1, 2], silence=30, timeout=600, now=0)
    for rank in range(3):
        watch.hear(rank, Beat(1, 30, 10, "waits for data", f"host{rank}"), now=100)
    return watch


def test_a_silent_rank_is_warned_of_then_lost() -> None:
    watch = watched()
    watch.hear(0, Beat(2, 30, 10, "", "host0"), now=120)
    watch.hear(2, Beat(2, 30, 10, "", "host2"), now=120)
    assert watch.warnings(109) == []
    assert [re.match(r"rank 1 on host1 has given no sign", line) is not None for line in watch.warnings(111)] == [True]
    assert watch.warnings(112) == []  # once
    assert watch.verdict(129) is None
    verdict = watch.verdict(131)
    assert verdict is not None
    assert "rank 1 on host1 (last seen at step 10)" in verdict.message
    assert "rank 2" not in verdict.message
    assert (verdict.again, list(verdict.ranks)) == (True, [1])
    early = watch.verdict(109, silence=8)
    assert early is not None
    for rank in range(3):
        watch.hear(rank, Beat(3, 30, 10, "", f"host{rank}"), now=129)
    assert watch.verdict(131) is None
    assert watch.warnings(131) == ["rank 1 on host1 is back"]


def test_a_rank_that_lives_but_does_not_move_is_named() -> None:
    watch = watched()
    for rank, moves in ((0, 32), (1, 31), (2, 32)):
        watch.hear(rank, Beat(2, moves, 10, "waits for data" if rank == 1 else "backward pass", f"host{rank}"), now=110)
    for now in range(120, 720, 10):
        for rank, moves in ((0, 32), (1, 31), (2, 32)):
            doing = "waits for data" if rank == 1 else "backward pass"
            watch.hear(rank, Beat(now, moves, 10, doing, f"host{rank}"), now)
        assert watch.verdict(now) is None or now > 710
        lines = watch.warnings(now)
        assert bool(lines) == (now == 320)
        assert all("behind: rank 1 on host1 at step 10 (waits for data)" in line for line in lines)
    verdict = watch.verdict(711)
    assert verdict is not None
    assert "no rank has moved for 601 s" in verdict.message
    assert "behind: rank 1 on host1" in verdict.message


def test_a_rank_that_ended_by_itself_is_quoted_and_one_that_is_through_is_not_missed() -> None:
    watch = watched()
    watch.hear(1, Beat(2, 30, 10, "", "host1", FOLLOWED), now=101)
    watch.hear(2, Beat(2, 30, 10, "", "host2", FINISHED), now=101)
    watch.hear(0, Beat(2, 30, 10, "", "host0"), now=10_000)
    watch.moved = 10_000
    assert watch.verdict(10_001) is None
    watch.hear(2, Beat(3, 30, 10, "", "host2", "DataLossError: all gone"), now=10_001)
    verdict = watch.verdict(10_001)
    assert verdict is not None
    assert verdict.message == "rank 2 on host2 ended: DataLossError: all gone"
    assert not verdict.again


def test_before_the_first_steps_more_silence_is_borne_and_ones_own_absence_does_not_count() -> None:
    watch = Watch([0, 1], silence=30, timeout=600, now=0)
    assert watch.verdict(89) is None
    assert watch.verdict(91) is not None
    watch.forgive(91)
    assert watch.verdict(92) is None


@pytest.mark.parametrize("beat", [Beat(), Beat(3, 4, 5, "saves", "höst", "why")])
def test_a_beat_travels_as_text(beat: Beat) -> None:
    assert Beat.unpack(beat.pack().encode()) == beat


def test_lightning_s_own_watch_over_its_processes_is_off() -> None:
    """It would kill rank 0 without a word, and before it has saved, when another one has ended."""
    ended, main = subprocess.Popen(["false"]), subprocess.Popen(["sleep", "60"])
    ended.wait()
    observer = _ChildProcessObserver(main.pid, [ended], sleep_period=0.2)  # type: ignore[arg-type]
    observer.start()
    heartbeat._dismiss_observer()
    observer.join(10)
    assert not observer.is_alive()
    with pytest.raises(subprocess.TimeoutExpired):  # it lives
        main.wait(0.3)
    main.kill()
    main.wait()
