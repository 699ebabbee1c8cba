"""Prompts as diffusers' pipeline encodes them, and padding at the price of one token."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, WanPipeline
from small_dit_base import random_text, write_complete_base

from wan_alpha.models import dit
from wan_alpha.models.base import BaseError
from wan_alpha.models.dit import load_scheduler, load_transformer
from wan_alpha.models.folded_text import fold_text, padding_bias
from wan_alpha.models.text import TextEncoder, cut_padding, pad_prompts
from wan_alpha.training.memory import LiveBytes

PROMPTS = ["a red parrot", "disc3 on a green background", ""]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_complete_base(tmp_path_factory.mktemp("complete"))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_embeddings_are_those_of_the_pipeline(attention: str, base: Path) -> None:
    pipeline = WanPipeline.from_pretrained(base)
    expected, _ = pipeline.encode_prompt(PROMPTS, do_classifier_free_guidance=False, max_sequence_length=40)
    text = TextEncoder.from_pretrained(base)
    text.encoder.set_attn_implementation(attention)
    with torch.no_grad():
        found = text(PROMPTS, pad_to=40)
    torch.testing.assert_close(found.embeddings, expected, atol=1e-6, rtol=1e-5)
    assert found.embeddings[2, 1:].eq(0).all()  # the empty prompt is one end token
    assert found.lengths.tolist()[2] == 1


def test_padding_that_was_cut_comes_back() -> None:
    prompts = random_text()(PROMPTS)
    again = pad_prompts(cut_padding(prompts), pad_to=prompts.embeddings.shape[1])
    assert torch.equal(prompts.embeddings, again.embeddings)
    assert torch.equal(prompts.lengths, again.lengths)
    assert prompts.embeddings.shape[1] == prompts.lengths.max() + 1


def test_a_long_prompt_is_cut_and_the_loss_is_shown(caplog: pytest.LogCaptureFixture) -> None:
    text = random_text()
    text.max_tokens = 6
    with caplog.at_level(logging.WARNING), torch.no_grad():
        prompts = text(["a red parrot on a green disc7 background", "a disc1"])
        text(["a red parrot on a green disc7 background"])
    assert prompts.embeddings.shape[1] == 6
    assert len(caplog.messages) == 1  # said once
    assert "cut to 6; lost is: ...green disc7 background" in caplog.messages[0]


def test_a_base_without_a_text_encoder_is_named(wan22: Path) -> None:
    with pytest.raises(BaseError, match=r"no text encoder at .*wan22"):
        TextEncoder.from_pretrained(wan22)
    with pytest.raises(BaseError, match=r"no Wan transformer at .*wan22"):
        load_transformer(wan22)


def test_the_shift_of_a_base_is_its_scheduler_s(base: Path, tmp_path: Path) -> None:
    assert load_scheduler(base).config.flow_shift == 2.0
    FlowMatchEulerDiscreteScheduler(shift=7.0).save_pretrained(tmp_path / "scheduler")
    euler = load_scheduler(tmp_path)
    assert (euler.config.flow_shift, euler.config.prediction_type) == (7.0, "flow_prediction")


def test_folded_padding_changes_nothing(base: Path) -> None:
    """The transformer sees 512 tokens, or a handful whose padding weighs as much."""
    text, transformer = TextEncoder.from_pretrained(base), load_transformer(base)
    z, t = torch.randn(3, 6, 2, 4, 4), torch.tensor([100.0, 500.0, 900.0])
    with torch.no_grad():
        full, short = text(PROMPTS, pad_to=512), text(PROMPTS)
        expected = transformer(z, t, full.embeddings, return_dict=False)[0]
        processor = fold_text(transformer)
        processor.weigh(short)
        found = transformer(z, t, short.embeddings, return_dict=False)[0]
        processor.bias = None
        unweighted = transformer(z, t, short.embeddings, return_dict=False)[0]
    torch.testing.assert_close(found, expected, atol=2e-6, rtol=1e-5)
    assert (unweighted - expected).abs().max() > 1e-4  # otherwise this could not fail


def test_folded_text_keeps_no_matrix_of_all_pairs_of_a_video_s_tokens(base: Path) -> None:
    """512 of them here, of two heads; a video has tens of thousands."""
    text, transformer = TextEncoder.from_pretrained(base), load_transformer(base)
    processor = fold_text(transformer)
    with torch.no_grad(), LiveBytes() as live:
        short = text(PROMPTS[:1])
        processor.weigh(short)
        transformer(torch.randn(1, 6, 2, 32, 32), torch.tensor([100.0]), short.embeddings, return_dict=False)
    assert live.peak < 4 * 2 * 512**2


def test_padding_that_is_not_there_cannot_be_weighed() -> None:
    with pytest.raises(ValueError, match="leave no padding among 3"):
        padding_bias(torch.tensor([2, 3]), 3, 512)
    assert padding_bias(torch.tensor([3]), 3, 3).eq(0).all()
    bias = padding_bias(torch.tensor([1]), 3, 512)
    assert bias[0, 0] == 0
    assert bias[0, 1].exp().item() * 2 == pytest.approx(511)


def test_a_missing_package_is_named(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dit, "find_spec", lambda name: None)
    with pytest.raises(BaseError, match=r"quantise=fp8 needs torchao: pip install 'wan-alpha\[quantise\]'"):
        load_transformer(base, quantise="fp8")


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what is missing where there is no GPU")
def test_what_needs_a_gpu_says_so(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BaseError, match=r"model.frozen.quantise=nf4 needs a CUDA GPU"):
        load_transformer(base, quantise="nf4")
