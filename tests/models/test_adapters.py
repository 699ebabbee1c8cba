"""Adapter files: what goes in comes out, and what does not belong is refused."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from small_world import random_base

from wan_alpha.models.adapters import AdapterError
from wan_alpha.models.alpha_vae import AdapterSpec, AlphaVAE
from wan_alpha.models.base import fingerprint, load_vae

SPEC = AdapterSpec(rank=3, lora_alpha=1.5, merge_init="random", residual_blocks=2)


@pytest.fixture(scope="module")
def trained(wan22: Path) -> AlphaVAE:
    torch.manual_seed(0)
    vae = AlphaVAE.from_pretrained(wan22, spec=SPEC)
    vae.load_adapter_state({name: torch.randn_like(t) for name, t in vae.adapter_state().items()})
    return vae


@pytest.fixture(scope="module")
def exported(trained: AlphaVAE, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory with exported adapters."""
    run = tmp_path_factory.mktemp("run")
    trained.save_adapters(run / "adapters")
    return run


def test_saved_and_loaded_adapters_are_equal_to_the_bit(wan22: Path, trained: AlphaVAE, exported: Path) -> None:
    rgb, alpha = torch.rand(1, 3, 5, 16, 16) * 2 - 1, torch.rand(1, 1, 5, 16, 16)
    z = trained.eval().encode(rgb, alpha)
    for where in (exported, exported / "adapters"):  # a run, or the directory itself
        loaded = AlphaVAE.from_pretrained(wan22, where)
        assert loaded.spec == SPEC
        expected = trained.adapter_state()
        assert loaded.adapter_state().keys() == expected.keys()
        assert all(torch.equal(t, expected[name]) for name, t in loaded.adapter_state().items())
        assert torch.equal(loaded.encode(rgb, alpha), z)
        for a, b in zip(loaded.decode(z), trained.decode(z), strict=True):
            assert torch.equal(a, b)
        assert not loaded.training
    assert {f.name for f in (exported / "adapters").iterdir()} == {"adapters.safetensors", "adapters.json"}


def test_loading_casts(wan22: Path, trained: AlphaVAE, exported: Path) -> None:
    half = AlphaVAE.from_pretrained(wan22, exported, dtype=torch.bfloat16)
    expected = trained.adapter_state()
    assert all(torch.equal(t, expected[n].to(torch.bfloat16)) for n, t in half.adapter_state().items())


def test_half_precision_files_are_half_the_size(wan22: Path, trained: AlphaVAE, exported: Path, tmp_path: Path) -> None:
    trained.save_adapters(tmp_path, torch.float16)
    sizes = [(where / "adapters.safetensors").stat().st_size for where in (exported / "adapters", tmp_path)]
    assert sizes[1] < 0.65 * sizes[0]
    expected = trained.adapter_state()
    loaded = AlphaVAE.from_pretrained(wan22, tmp_path).adapter_state()
    assert all(torch.equal(t, expected[n].half().float()) for n, t in loaded.items())


def test_a_base_of_another_layout_is_refused_by_the_names_of_the_keys(wan21: Path, exported: Path) -> None:
    with pytest.raises(AdapterError, match="made for another base") as caught:
        AlphaVAE.from_pretrained(wan21, exported)
    message = str(caught.value)
    assert "z_dim: adapters 6, base 4" in message
    assert "is_residual: adapters True, base False" in message
    assert "patch_size: adapters 2, base None" in message
    assert "num_res_blocks" not in message  # equal in both


def test_other_weights_in_the_same_layout_only_warn(
    wan22: Path, exported: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    random_base("wan22", seed=1).save_pretrained(tmp_path / "vae")
    with caplog.at_level(logging.WARNING, "wan_alpha"):
        AlphaVAE.from_pretrained(wan22, exported)
        assert not [r for r in caplog.records if r.name.startswith("wan_alpha")]
        AlphaVAE.from_pretrained(tmp_path, exported)
    assert "other weights in the same layout" in caplog.text
    assert str(exported / "adapters") in caplog.text


def test_the_fingerprint_is_of_the_base_alone(wan22: Path) -> None:
    plain = load_vae(wan22)
    before = fingerprint(plain)
    vae = AlphaVAE(plain, SPEC)
    assert fingerprint(vae.base) == before
    assert fingerprint(random_base("wan22", torch.float64)) == before
    assert fingerprint(random_base("wan22", seed=1)) != before


@pytest.mark.parametrize("damage", ["truncated tensors", "no tensors", "broken json", "pickle"])
def test_damaged_adapters_are_refused(wan22: Path, trained: AlphaVAE, tmp_path: Path, damage: str) -> None:
    trained.save_adapters(tmp_path)
    tensors, description = tmp_path / "adapters.safetensors", tmp_path / "adapters.json"
    if damage == "truncated tensors":
        tensors.write_bytes(tensors.read_bytes()[:-1000])
    elif damage == "no tensors":
        tensors.unlink()
    elif damage == "broken json":
        description.write_text(description.read_text()[:-20])
    else:
        torch.save(trained.adapter_state(), tensors)
    with pytest.raises(AdapterError, match="damaged") as caught:
        AlphaVAE.from_pretrained(wan22, tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_missing_adapters_say_where_they_were_looked_for(wan22: Path, tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match=r"no adapters.json in .*exported adapter directory or a run"):
        AlphaVAE.from_pretrained(wan22, tmp_path / "nowhere")


def test_another_version_is_refused(wan22: Path, trained: AlphaVAE, tmp_path: Path) -> None:
    trained.save_adapters(tmp_path)
    description = json.loads((tmp_path / "adapters.json").read_text())
    (tmp_path / "adapters.json").write_text(json.dumps(description | {"version": 99}))
    with pytest.raises(AdapterError, match=r"99\); this version reads \('wan-alpha adapters', 1\)"):
        AlphaVAE.from_pretrained(wan22, tmp_path)


@pytest.mark.parametrize("description", ["[]", "{}", '{"format": "wan-alpha adapters", "version": 1}'])
def test_a_description_that_says_nothing_is_refused(
    wan22: Path, trained: AlphaVAE, tmp_path: Path, description: str
) -> None:
    trained.save_adapters(tmp_path)
    (tmp_path / "adapters.json").write_text(description)
    with pytest.raises(AdapterError):
        AlphaVAE.from_pretrained(wan22, tmp_path)


@pytest.mark.parametrize(
    ("part", "content", "named"),
    [
        ("spec", None, "spec is None"),
        ("spec", {"rnk": 2}, "unexpected keyword argument 'rnk'"),
        ("base", {"layout": {}}, "base has no 'fingerprint'"),
    ],
)
def test_a_description_with_other_content_is_refused(
    part: str, content: object, named: str, wan22: Path, trained: AlphaVAE, tmp_path: Path
) -> None:
    trained.save_adapters(tmp_path)
    description = json.loads((tmp_path / "adapters.json").read_text())
    (tmp_path / "adapters.json").write_text(json.dumps(description | {part: content}))
    with pytest.raises(AdapterError, match=rf"damaged.*{named}"):
        AlphaVAE.from_pretrained(wan22, tmp_path)


def test_tensors_that_do_not_belong_are_named(wan22: Path, trained: AlphaVAE, tmp_path: Path) -> None:
    state = trained.adapter_state()
    first = next(iter(state))
    for tensors, message in (  # a tensor of one element would be broadcast by a plain copy
        ({n: t for n, t in state.items() if n != first}, rf"missing \['{first}'\]"),
        (state | {"extra": torch.zeros(1)}, r"unknown \['extra'\]"),
        (state | {first: torch.zeros(1)}, rf"{first}: \(1,\), this model has"),
    ):
        trained.save_adapters(tmp_path)
        save_file({n: t.contiguous() for n, t in tensors.items()}, tmp_path / "adapters.safetensors")
        with pytest.raises(AdapterError, match=message):
            AlphaVAE.from_pretrained(wan22, tmp_path)
