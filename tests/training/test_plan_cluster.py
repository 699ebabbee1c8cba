"""plan=true for stage=vae, and for clusters: against a real step, and against arithmetic by hand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from launch import compose
from small_dit_base import write_complete_base

from wan_alpha.command import ConfigError
from wan_alpha.training import plan_report
from wan_alpha.training.build import build_module
from wan_alpha.training.cluster import bandwidth, days_and_cost, estimate, gpus_of
from wan_alpha.training.flops import Flops
from wan_alpha.training.hardware import GPUS, known_gpu
from wan_alpha.training.memory import LiveBytes, bytes_of
from wan_alpha.training.plan import Plan, plan_run
from wan_alpha.training.plan_report import print_plan

VAE = [
    "stage=vae", "base=path", "data.size=[16,16]", "data.num_frames=5", "data.batch_size=2", "model.lora.rank=4",
    "trainer.precision=32-true",
]  # fmt: skip


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_plan_of_an_rgba_vae_is_a_real_steps(checkpointing: bool, wan22: Path) -> None:
    config, _ = compose(*VAE, f"base.path={wan22}", f"trainer.activation_checkpointing={checkpointing}")
    plan = plan_run(config)
    module = build_module(config)
    module.log_step = lambda values: None  # type: ignore[method-assign]
    trained = sum(p.numel() * 4 for p in module.trainable().values())
    assert plan.parts["adapters"] == plan.parts["gradients"] == plan.parts["average"] == trained
    assert plan.parts["adapters"] + plan.parts["base VAE"] == bytes_of(module.vae)
    rgb = torch.rand(2, 3, 5, 16, 16)
    batch = {"rgb": rgb, "alpha": rgb[:, :1].clone(), "background": torch.rand(2, 3), "canvas": torch.rand(2, 3)}
    with LiveBytes() as live, Flops() as flops:
        loss = module.training_step(batch, 0)
        flops.backward = True
        loss.backward()
    planned = plan.parts["gradients"] + plan.parts["activations and working space"]
    assert planned == pytest.approx(live.peak, rel=0.1)
    assert plan.flops == pytest.approx(flops.total, rel=0.01)
    assert bool(flops.again) is checkpointing
    if checkpointing:  # saves memory, and what it computes again is not counted
        plain = plan_run(compose(*VAE, f"base.path={wan22}")[0])
        assert plan.flops == plain.flops
        assert plan.total < plain.total


def test_fused_norms_are_planned_with_what_they_keep() -> None:
    """One kernel keeps its input alone; the products and convolutions of the step are the same."""
    small = ["experiment=wan_alpha_v1_vae", "data.root=CLIPS", "data.size=[64,64]", "data.num_frames=5"]
    fused, apart = (plan_run(compose(*small, f"trainer.fuse_norms={flag}")[0]) for flag in ("true", "false"))
    peaks = [plan.parts["gradients"] + plan.parts["activations and working space"] for plan in (fused, apart)]
    assert fused.flops == apart.flops
    assert fused.parts.keys() == apart.parts.keys()
    assert 0.5 < peaks[0] / peaks[1] < 0.9


def test_version_2s_prior_is_planned_with_its_transformer(tmp_path: Path) -> None:
    base = write_complete_base(tmp_path / "base")
    prior = ["loss.prior.weight=0.1", f"loss.prior.base={base}"]
    plain, planned = (plan_run(compose(*VAE, f"base.path={base}", *more)[0]) for more in ([], prior))
    assert planned.parts["diffusion prior"] > 0
    assert planned.flops > plain.flops
    assert planned.total > plain.total


PLAN = Plan(
    {"transformer": 80 * 2**30, "RGBA VAE": 2**30, "adapters": 2**30, "gradients": 2**30, "optimiser": 2 * 2**30,
     "average": 2**30, "activations": 10 * 2**30},
    flops=10**15, trained=2**28, unit=2**30, apart=2**30,
)  # fmt: skip
CLUSTER = ["cluster.gpu=h200", "cluster.gpus=16", "cluster.price=3", "cluster.mfu=0.5", "trainer.max_steps=1000"]


def test_a_cluster_is_planned_by_arithmetic() -> None:
    config, _ = compose(*CLUSTER)
    ddp, fsdp = (estimate(config, PLAN, strategy) for strategy in ("ddp", "fsdp"))
    assert ddp.memory == pytest.approx(96 + 1 - 1)  # buckets of gradients come on top
    assert fsdp.memory == pytest.approx(85 / 16 + 1 + 10 + 2 - 1 / 16)
    assert fsdp.fits(GPUS["h200"])
    assert not ddp.fits(GPUS["h100"])
    assert ddp.compute == fsdp.compute == pytest.approx(1e15 / (0.5 * 989.4e12))
    assert bandwidth(config) == 400 / 8 / 8  # two machines: a GPU has its share of the network
    assert ddp.communicate == pytest.approx(2 * 15 / 16 * 2**30 / (6.25e9))
    assert fsdp.communicate == pytest.approx(15 / 16 * (2 * 81 + 1) * 2**30 / (6.25e9))
    low, high = ddp.seconds
    assert (low, high) == (max(ddp.compute, ddp.communicate), ddp.compute + ddp.communicate)
    days, cost = days_and_cost(config, high)
    assert days == pytest.approx(high * 1000 / 86400)
    assert cost == pytest.approx(days * 24 * 16 * 3)


def test_one_machine_uses_its_own_link_and_one_gpu_none() -> None:
    eight, one = (compose("cluster.gpu=h200", f"cluster.gpus={n}")[0] for n in (8, 1))
    assert bandwidth(eight) == 450
    alone = estimate(one, PLAN, "ddp")
    assert alone.communicate == 0
    assert alone.memory == pytest.approx(PLAN.total / 2**30)
    waiting = compose("cluster.gpu=h200", "cluster.gpus=8", "trainer.accumulate_grad_batches=4")[0]
    assert estimate(waiting, PLAN, "ddp").apart == 0
    assert estimate(waiting, PLAN, "ddp").compute == 4 * estimate(eight, PLAN, "ddp").compute


@pytest.mark.parametrize(
    ("devices", "gpus"), [("4", 8), ("[0,3,5]", 6), ("auto", 2)],
)  # fmt: skip
def test_without_a_number_the_trainers_devices_count(devices: str, gpus: int) -> None:
    assert gpus_of(compose(f"trainer.devices={devices}", "trainer.num_nodes=2")[0]) == gpus


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_report, "plan_run", lambda config: PLAN)


def test_the_report_states_what_it_assumes(planned: None, capsys: pytest.CaptureFixture[str]) -> None:
    print_plan(compose("data.batch_size=2", "trainer.max_steps=100000", *CLUSTER[:4])[0])
    shown = re.sub(r"\s+", " ", capsys.readouterr().out)
    for words in ("16 x NVIDIA H200", "global batch 32", "trainer.strategy=fsdp", "fits 140.4 GiB", "days to the last",
                  "cost", "50% (cluster.mfu) of 989.4 TFLOP/s", "assumed", "6.25 GB/s"):  # fmt: skip
        assert words in shown, words


@pytest.mark.parametrize("cluster", [[], ["cluster.gpu=h100"]])
def test_what_is_not_planned_is_said(cluster: list[str], planned: None, capsys: pytest.CaptureFixture[str]) -> None:
    print_plan(compose("stage=dit", "trainer=fsdp_cp", "trainer.context_ranks=4", *cluster)[0])
    shown = re.sub(r"\s+", " ", capsys.readouterr().out)
    assert shown.count("trainer.context_ranks=4 is not known here: each GPU is counted with whole clips") == 1


def test_a_global_batch_is_shared(planned: None, capsys: pytest.CaptureFixture[str]) -> None:
    print_plan(compose("data.global_batch=32", "cluster.gpu=h100", "cluster.gpus=8")[0])
    assert "global batch 32" in re.sub(r"\s+", " ", capsys.readouterr().out)
    with pytest.raises(ConfigError, match=r"data\.global_batch=30 cannot be divided evenly by 8 ranks"):
        print_plan(compose("data.global_batch=30", "cluster.gpu=h100", "cluster.gpus=8")[0])


def test_a_gpu_that_is_not_in_the_table_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"cluster\.gpu='h1000': input should be 'b200', 'h200'"):
        compose("cluster.gpu=h1000")


@pytest.mark.parametrize(
    ("reported", "name"),
    [("NVIDIA H100 80GB HBM3", "h100"), ("NVIDIA H100 PCIe", "h100-pcie"), ("NVIDIA A100-SXM4-80GB", "a100-80"),
     ("NVIDIA GeForce RTX 4090", "4090")],
)  # fmt: skip
def test_gpus_are_known_by_what_the_driver_says(reported: str, name: str) -> None:
    assert known_gpu(reported) is GPUS[name]
    assert known_gpu("GeForce GTX 1080") is None
