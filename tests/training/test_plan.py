"""plan=true: what a step takes is known before anything is loaded."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from launch import compose
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import dit_step
from wan_alpha.command import ConfigError
from wan_alpha.models.base import BaseError
from wan_alpha.models.dit_adapters import add_dit_adapters
from wan_alpha.training.memory import LiveBytes
from wan_alpha.training.plan import Plan, StepShape, plan_run, plan_step, step_flops
from wan_alpha.training.plan_report import print_plan

SMALL = {"num_attention_heads": 4, "attention_head_dim": 24, "ffn_dim": 384, "num_layers": 3, "text_dim": 32}
SHAPE = StepShape((2, 16, 3, 16, 16), 16, 8)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("kind", ["dora", "lora"])
def test_planned_parts_are_those_of_a_real_step(checkpointing: bool, kind: str) -> None:
    shape = replace(SHAPE, kind=kind, checkpointing=checkpointing)
    plan = plan_step(SMALL, shape)
    dit = WanTransformer3DModel(**SMALL)  # type: ignore[arg-type]
    trained = list(add_dit_adapters(dit, 8, 8, kind).values())  # type: ignore[arg-type]
    if checkpointing:
        dit.enable_gradient_checkpointing()
    size = sum(p.numel() * 4 for p in trained)
    assert plan.parts["adapters"] == plan.parts["gradients"] == plan.parts["average"] == size
    assert plan.parts["optimiser"] == 2 * size
    assert plan.trained == size // 4
    frozen = [*(p for p in dit.parameters() if not p.requires_grad), *dit.buffers()]
    assert plan.parts["transformer"] == sum(t.numel() * t.element_size() for t in frozen)
    x, text = torch.randn(shape.latent), torch.randn(2, 16, 32)
    with LiveBytes() as live:
        loss = dit(x, torch.rand(2), text, return_dict=False)[0].square().mean()
    kept = live.now
    del loss
    if not checkpointing:
        assert plan.parts["activations"] == pytest.approx(kept, rel=0.1)
    else:  # the inputs of three blocks, and one block
        assert kept < plan.parts["activations"] < kept + 0.45 * plan_step(SMALL, SHAPE).parts["activations"]


def test_flops_are_those_that_torch_counts() -> None:
    dit = WanTransformer3DModel(**(SMALL | {"num_layers": 1}))  # type: ignore[arg-type]
    add_dit_adapters(dit, 8, 8, lean=False)  # what is computed again is not counted
    x, text = torch.randn(SHAPE.latent, requires_grad=True), torch.randn(2, 16, 32)
    with FlopCounterMode(display=False) as counter:
        dit(x, torch.rand(2), text, return_dict=False)[0].square().mean().backward()
    # The counter leaves this processor's fused attention out and has what is outside of the block; norms of DoRA too.
    tokens, d = 2 * 3 * 8 * 8, 96
    attention = 12 * d * (tokens * tokens // 2 + tokens * 16)
    assert step_flops(SMALL | {"num_layers": 1}, SHAPE) - attention == pytest.approx(counter.get_total_flops(), rel=0.1)


def test_known_models_need_no_files(capsys: pytest.CaptureFixture[str]) -> None:
    overrides = [
        "stage=dit", "base=wan2.1-1.3b", "trainer=gpu", "data.num_frames=81", "data.size=[480,832]",
        "data.batch_size=1", "model.fold_padding=false", "plan=true",
    ]  # fmt: skip
    plan: Plan = plan_run(compose(*overrides)[0])
    assert plan.parts["transformer"] == pytest.approx(1.42e9 * 4, rel=0.02)
    assert plan.parts["text encoder"] == pytest.approx(5.68e9 * 4, rel=0.02)
    assert plan.flops > 1e14
    print_plan(compose("stage=dit", "base=wan2.1-1.3b", "data.size=[32,32]", "data.num_frames=5", "plan=true")[0])
    shown = capsys.readouterr().out
    assert "in all" in shown
    assert "TFLOP" in shown


def test_14b_at_81_frames_is_planned_within_80_gb() -> None:
    """The paper's experiment: bf16 base, checkpointed blocks, text encoder beside it.  Estimated, not measured."""
    plan = plan_run(compose("experiment=wan_alpha_v1_dit", "data.root=CLIPS")[0])
    assert plan.parts["transformer"] == pytest.approx(14.3e9 * 2, rel=0.02)
    assert 50e9 < plan.total < 80e9
    assert plan.parts["text encoder"] > 11e9  # model.frozen.text_on_cpu=true spares it


@pytest.mark.parametrize("model", ["1.3b", "14b"])
def test_the_plan_is_what_steps_on_a_gpu_took(model: str) -> None:
    """Random weights of the full size on an H200, measured by benchmarks.dit_step."""
    measured = json.loads((dit_step.RESULTS / f"dit_step_{model}_cuda.json").read_text())["rows"]
    for row in measured:
        shape = StepShape(dit_step.LATENTS[model], 512, 32, dtype=torch.bfloat16, gpu=True)
        shape = replace(shape, checkpointing=row["checkpointing"])
        planned = plan_step(dit_step.architecture(model), shape).total / 2**30
        assert planned == pytest.approx(row["peak_gib"], rel=0.07 if row["compile"] else 0.02)


def test_what_cannot_be_planned_says_why(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="plan=true is for stage=vae and stage=dit; stage=base has no plan"):
        plan_run(compose("stage=base")[0])
    with pytest.raises(BaseError, match=r"plan=true reads .*config\.json, which is not there"):
        plan_run(compose("stage=dit", "base=path", f"base.path={tmp_path}")[0])


def test_the_gpu_benchmark_runs_on_a_cpu() -> None:
    args = dit_step.parse(
        ["--model", "tiny", "--compile", "off", "--repeats", "1", "--text", "8", "--peak-tflops", "1"]
    )
    rows = dit_step.report(args)
    assert [(row["checkpointing"], row["compile"], row["stored"]) for row in rows] == [
        (False, False, "none"), (True, False, "none"),
    ]  # fmt: skip
    assert all(row["seconds"] > 0 and row["mfu"] > 0 for row in rows)
    assert all(row["loss"] == pytest.approx(rows[0]["loss"], rel=0.1) for row in rows)
