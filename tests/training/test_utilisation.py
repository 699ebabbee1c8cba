"""MFU: FLOPs counted once, over the peak of a known device."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from launch import compose, small, train
from small_world import write_clips

from wan_alpha.models import norms
from wan_alpha.training import build, progress, run, utilisation
from wan_alpha.training.plan import plan_run


def columns(run_dir: Path) -> list[dict[str, str]]:
    with open(run_dir / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_a_known_device_gets_its_share_of_the_peak(
    wan22: Path, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The counted FLOPs are those that plan=true promises; what checkpointing computes again is none of them."""
    made: list[utilisation.Utilisation] = []

    class Kept(utilisation.Utilisation):
        def __init__(self) -> None:
            super().__init__()
            made.append(self)

    monkeypatch.setattr(run, "Utilisation", Kept)
    monkeypatch.setattr(utilisation, "device_peak", lambda device: 1e15)
    arguments = small(wan22, clips, tmp_path, "trainer.activation_checkpointing=true")
    arguments += ["trainer.max_steps=4", "trainer.accumulate_grad_batches=2", "trainer.val_every_n_steps=2"]
    train(*arguments)
    assert list(made[0].flops.values()) == [pytest.approx(plan_run(compose(*arguments)[0]).flops, rel=0.01)]
    shares = {int(row["step"]): float(row["train/mfu"]) for row in columns(tmp_path) if row.get("train/mfu")}
    assert set(shares) == {1, 2, 3, 4}
    assert all(0 < share < 1 for share in shares.values())


def test_a_counted_step_leaves_norms_compiled(
    wan22: Path, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch never compiles again what it first meets under a mode that wants to see every operation."""
    graphs: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Callable[..., Any]:
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    monkeypatch.setattr(norms, "_compiled", torch.compile(norms.norm_silu, dynamic=True, backend=backend))
    monkeypatch.setattr(build, "missing_compiler", lambda: "")
    monkeypatch.setattr(utilisation, "device_peak", lambda device: 1e15)
    options = ["trainer.fuse_norms=true", "trainer.activation_checkpointing=true", "trainer.val_every_n_steps=0"]
    train(*small(wan22, clips, tmp_path, *options, "trainer.max_steps=2"))
    assert graphs
    assert float(columns(tmp_path)[-1]["train/mfu"]) > 0


def test_without_a_compiler_norms_stay_as_they_are(
    wan22: Path, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A GPU in a container without gcc: a warning, and a run."""
    monkeypatch.setattr(build, "missing_compiler", lambda: "a C compiler (gcc or clang)")
    module = build.build_module(compose(*small(wan22, clips, tmp_path, "trainer.fuse_norms=true"))[0])
    assert not any(isinstance(part, norms.NormSilu) for part in module.modules())
    assert "trainer.fuse_norms=true needs a C compiler (gcc or clang), which is not here" in caplog.text


def test_batches_of_several_shapes_count_each_for_itself(
    wan22: Path, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For MFU by their FLOPs, for the throughput by their frames."""
    shapes: list[tuple[int, ...]] = []
    made: list[Any] = []

    class Counted(utilisation.Utilisation):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, *more: Any) -> None:
            super().on_train_batch_start(trainer, pl_module, batch, *more)
            shapes.append(tuple(batch["rgb"].shape))
            made[:] = [c for c in trainer.callbacks if isinstance(c, Counted | progress.StepProgress)]

    monkeypatch.setattr(run, "Utilisation", Counted)
    monkeypatch.setattr(utilisation, "device_peak", lambda device: 1e15)
    mixture = [
        "data.root=null",
        f"data.sources=[{{root:'{clips}'}},{{root:'{write_clips(tmp_path / 'short', 4, frames=3)}'}}]",
        "data.buckets=[{num_frames:5,size:[16,16]},{num_frames:1,size:[16,16]}]",
    ]
    more = ["trainer.val_every_n_steps=0", "callbacks.progress=true"]
    train(*small(wan22, clips, tmp_path / "run", *mixture, *more))
    throughput, counted = made
    assert set(counted.flops) == set(shapes) == {(2, 3, 5, 16, 16), (2, 3, 1, 16, 16)}
    assert counted.flops[2, 3, 5, 16, 16] > 1.5 * counted.flops[2, 3, 1, 16, 16]
    assert throughput.frames == sum(shape[0] * shape[2] for shape in shapes)


def test_an_unknown_device_is_left_alone(wan22: Path, clips: Path, tmp_path: Path) -> None:
    assert utilisation.device_peak(torch.device("cpu")) is None
    train(*small(wan22, clips, tmp_path, "trainer.max_steps=1", "trainer.val_every_n_steps=0"))
    assert "train/mfu" not in columns(tmp_path)[0]
