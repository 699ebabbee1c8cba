"""Adapters of the transformer: files that diffusers reads, bases that do not fit, merging."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, WanPipeline
from safetensors.torch import load_file, save_file
from small_dit import disturb_adapters, dit_inputs, random_dit

from wan_alpha.models.adapters import AdapterError
from wan_alpha.models.device import missing_compiler
from wan_alpha.models.dit import compile_blocks
from wan_alpha.models.dit_adapters import (
    FILE,
    Kind,
    add_dit_adapters,
    dit_fingerprint,
    dit_layers,
    load_dit_adapters,
    merge_dit_adapters,
    save_dit_adapters,
)


@pytest.mark.parametrize("kind", ["dora", "lora"])
def test_diffusers_reads_the_file_and_ours_reads_it_back(tmp_path: Path, kind: Kind) -> None:
    dit = random_dit()
    add_dit_adapters(dit, 4, 6, kind)
    disturb_adapters(dit)
    save_dit_adapters(dit, tmp_path)
    inputs = dit_inputs(dit)
    wanted = dit(**inputs, return_dict=False)[0]
    assert (wanted - random_dit()(**inputs, return_dict=False)[0]).abs().max() > 0.01

    plain = random_dit()
    pipe = WanPipeline(None, None, AutoencoderKLWan(base_dim=4), FlowMatchEulerDiscreteScheduler(), transformer=plain)
    pipe.load_lora_weights(tmp_path)
    torch.testing.assert_close(plain(**inputs, return_dict=False)[0], wanted, rtol=1e-5, atol=1e-5)

    again = random_dit()
    trained = load_dit_adapters(again, tmp_path)
    assert all(p.requires_grad for p in trained.values())
    torch.testing.assert_close(again(**inputs, return_dict=False)[0], wanted, rtol=0, atol=0)


def test_compiled_blocks_take_the_same_step() -> None:
    """Each block is one graph without a break, DoRA and checkpointing inside; this backend needs no C++ compiler."""
    dit = random_dit(num_layers=1)
    trained = add_dit_adapters(dit, 4, 6)
    disturb_adapters(dit)
    dit.enable_gradient_checkpointing()
    inputs = dit_inputs(dit)

    def step() -> list[torch.Tensor]:
        loss = dit(**inputs, return_dict=False)[0].square().mean()
        return [loss, *torch.autograd.grad(loss, list(trained.values()))]

    expected = step()
    dit.compile_repeated_blocks(backend="aot_eager", fullgraph=True)
    for found, wanted in zip(step(), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(bool(missing_compiler()), reason=f"torch compiles with {missing_compiler()}")
def test_blocks_may_be_compiled_in_all_forms_of_a_run() -> None:
    """Two buckets, a validation and samples need nine; torch gives up after eight, and blocks run as uncompiled."""
    with torch._dynamo.config.patch(recompile_limit=8):
        compile_blocks(random_dit(num_layers=1))
        assert torch._dynamo.config.recompile_limit >= 32


@pytest.mark.parametrize("kind", ["dora", "lora"])
def test_merging_leaves_a_plain_transformer_with_the_same_output(kind: Kind) -> None:
    dit = random_dit(torch.float64)
    keys = set(dit.state_dict())
    add_dit_adapters(dit, 4, 6, kind)
    disturb_adapters(dit)
    inputs = dit_inputs(dit, torch.float64)
    wanted = dit(**inputs, return_dict=False)[0]
    merge_dit_adapters(dit)
    assert set(dit.state_dict()) == keys
    assert not dit_layers(dit)
    torch.testing.assert_close(dit(**inputs, return_dict=False)[0], wanted, rtol=1e-10, atol=1e-12)
    add_dit_adapters(dit, 2, 2)  # and can be trained on


@pytest.mark.parametrize(("rank", "alpha"), [(0, 1.0), (-1, 1.0), (4, 0.0)])
def test_rank_and_alpha_must_be_positive(rank: int, alpha: float) -> None:
    with pytest.raises(AdapterError, match=f"rank={rank}, alpha={alpha}: expected a rank of at least 1"):
        add_dit_adapters(random_dit(), rank, alpha)


def test_a_second_set_is_refused() -> None:
    dit = random_dit()
    add_dit_adapters(dit, 2, 2)
    with pytest.raises(AdapterError, match="has adapters already"):
        add_dit_adapters(dit, 2, 2)


def test_another_base_is_refused_and_other_weights_warn(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    dit = random_dit()
    add_dit_adapters(dit, 2, 2)
    file = save_dit_adapters(dit, tmp_path)
    with pytest.raises(AdapterError, match=r"made for another base: num_layers: adapters 2, base 3"):
        load_dit_adapters(random_dit(num_layers=3), file)
    assert dit_fingerprint(dit) == dit_fingerprint(random_dit()) == dit_fingerprint(random_dit().to(torch.bfloat16))
    with caplog.at_level(logging.WARNING):
        load_dit_adapters(random_dit(seed=5), tmp_path)
    assert "other weights in the same layout" in caplog.text


def test_damaged_files_are_refused_in_sentences(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match=f"no {FILE} in"):
        load_dit_adapters(random_dit(), tmp_path)
    dit = random_dit()
    add_dit_adapters(dit, 2, 2)
    file = save_dit_adapters(dit, tmp_path)
    tensors = load_file(file)
    save_file(tensors, file)  # without its header
    with pytest.raises(AdapterError, match="rank and alpha are unknown"):
        load_dit_adapters(random_dit(), file)
    save_dit_adapters(dit, tmp_path)
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(AdapterError, match="is damaged"):
        load_dit_adapters(random_dit(), file)
