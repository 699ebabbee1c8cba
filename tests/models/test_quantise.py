"""A frozen base in 8 and 4 bits, with the real packages.  They are an extra, `pip install 'wan-alpha[quantise]'`."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small_dit import disturb_adapters, dit_inputs, random_dit

from wan_alpha.models.adapters import AdapterError
from wan_alpha.models.dit import Quantisation, load_transformer
from wan_alpha.models.dit_adapters import (
    add_dit_adapters,
    dit_fingerprint,
    dit_layers,
    merge_dit_adapters,
    save_dit_adapters,
)
from wan_alpha.models.dora import FastDoraLinear, is_plain

pytest.importorskip("torchao", reason="the extra `quantise` is not installed")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.mark.parametrize(("kind", "error"), [("fp8", 0.1), pytest.param("nf4", 0.3, marks=pytest.mark.gpu)])
def test_dora_on_a_quantised_base(kind: Quantisation, error: float, tmp_path: Path) -> None:
    """The weights are in few bits, the velocity is near, and every adapter learns."""
    exact = random_dit(num_layers=1, text_dim=16).to(DEVICE)
    exact.save_pretrained(tmp_path / "transformer")
    quantised = load_transformer(tmp_path, quantise=kind).to(DEVICE)
    inputs = {name: value.to(DEVICE) for name, value in dit_inputs(exact).items()}
    with torch.no_grad():
        expected, found = (dit(**inputs, return_dict=False)[0] for dit in (exact, quantised))
    assert 1e-4 < (found - expected).norm() / expected.norm() < error
    steps = []
    for dit in (exact, quantised):
        trained = add_dit_adapters(dit, 2, 2.0)
        disturb_adapters(dit)
        loss = dit(**inputs, return_dict=False)[0].square().mean()
        loss.backward()
        assert all(p.grad is not None and p.grad.any() for p in trained.values())
        steps.append(loss.item())
    assert steps[1] == pytest.approx(steps[0], rel=2 * error)
    assert dit_fingerprint(quantised) == dit_fingerprint(load_transformer(tmp_path, quantise=kind))
    assert dit_fingerprint(quantised) != dit_fingerprint(exact)
    assert save_dit_adapters(quantised, tmp_path).is_file()
    layers = dit_layers(quantised).values()
    assert all(type(layer) is FastDoraLinear and not is_plain(layer.get_base_layer()) for layer in layers)
    with pytest.raises(AdapterError, match="is quantised"):
        merge_dit_adapters(quantised)
