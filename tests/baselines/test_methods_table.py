"""The comparison of methods: learning rates, on which VAE a generator is trained, intervals, what is bold or failed."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from scipy import stats

from benchmarks import methods
from benchmarks.methods import METHODS, Bench
from benchmarks.methods_table import RECONSTRUCTION
from wan_alpha.evaluation.metrics import RGBAMetrics
from wan_alpha.evaluation.prompts import load_prompts
from wan_alpha.models.alpha_vae import AlphaVAE
from wan_alpha.training.config import AlphaDiTConfig
from wan_alpha.training.data import ClipDataModule
from wan_alpha.training.validation import base_reconstructions

HALF = stats.t.ppf(0.975, 2) / 3**0.5  # for three values one apart, whose standard deviation is 1


def outcome(config: Any, mean: dict[str, Any]) -> dict[str, Any]:
    return {"mean": mean, "clips": 12, "trained": 1_500_000, "cpu_seconds": 9.0, "steps": 200, "batch": 4,
            "shape": [5, 64, 64], "rate": config.optim.lr}  # fmt: skip


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Any], Path]:
    """The configurations that `main` trained, without training them, and what it wrote, OUT."""
    out = tmp_path_factory.mktemp("methods") / "table"
    configs: list[Any] = []

    def train(config: Any, tree: dict) -> dict:
        configs.append(config)
        name = Path(config.run_dir).name
        if config.stage == "dit":
            better = 2e-3 if config.model.adapter.kind == "paired" else 1e-3
            return outcome(config, {"val/loss": 0.4 if config.optim.lr == better else 0.5})
        psnr = 20.0 + config.seed + 3.0 * ("prior" in name) - 5.0 * ("four_channel-lr0.002" in name)
        figures = {f: psnr if f.endswith("psnr") else 0.9 for f in RECONSTRUCTION}
        return outcome(config, {"ours": figures, "ceiling": figures, "floor": figures})

    def answer(seed: int, places: dict[str, Path], runs: Path, shape: list[int]) -> dict:
        ours = {"temporal_flickering": 0.9, "alpha_floor": 1.0 + seed, "edge_width": 1.0, "background_leak": 0.2}
        others = ours | {"temporal_flickering": 0.8, "alpha_floor": 7.0}
        found = {n: {"figures": others, "failed": {}, "cpu_seconds": 3.0} for n in places}
        found["paired"] |= {"figures": others | {"background_leak": None if seed else 0.1},
                            "failed": {"background_leak": [2, 18]} if seed else {}}  # fmt: skip
        return found | {"ours": {"figures": ours, "failed": {}, "cpu_seconds": 2.0}}

    sample = {"temporal_flickering": 0.99, "alpha_floor": 0.0, "edge_width": 1.5, "background_leak": 0.0, "clips": 14}
    with pytest.MonkeyPatch.context() as patch:
        for name, fake in {
            "train": train, "answer": answer, "of_the_sample": lambda config: sample,
            "of_two_latents": lambda config: dict.fromkeys(RECONSTRUCTION, 40.0),
            "picture": lambda *_: Image.new("RGB", (8, 8)),
        }.items():  # fmt: skip
            patch.setattr(methods, name, fake)
        patch.setattr("sys.argv", ["methods", "--out", str(out), "--runs", str(out.parent)])
        methods.main()
    return configs, out


def test_every_generator_is_trained_on_the_vae_of_its_method_and_seed_with_equal_data(
    told: tuple[list[Any], Path],
) -> None:
    asked = told[0]
    kept = [c for c in asked if c.stage == "dit"][-12:]  # after the trials of learning rates
    assert len({c.run_dir for c in kept}) == 12
    for config in kept:
        name = next(n for n in methods.GENERATORS if f"dit-{n}-" in config.run_dir)
        rate = "0.0005" if name == "four_channel" else "0.002"
        own = None if name == "paired" else str(Path(config.run_dir).parent / f"vae-{name}-lr{rate}-s{config.seed}")
        assert config.model.vae_adapters == own
        assert config.optim.lr == (2e-3 if name == "paired" else 1e-3)
        assert (config.data, config.trainer) == (kept[0].data, kept[0].trainer)
    vaes = [c for c in asked if c.stage == "vae"][-15:]
    assert all((c.data, c.trainer) == (vaes[0].data, vaes[0].trainer) for c in vaes)
    assert (vaes[0].data.size, vaes[0].data.batch_size) == (kept[0].data.size, kept[0].data.batch_size)
    assert {c.seed for c in vaes} == {c.seed for c in kept} == {0, 1, 2}


def test_the_page_has_a_row_for_every_method_in_every_block(told: tuple[list[Any], Path]) -> None:
    page = told[1].with_suffix(".md").read_text()
    vaes, generators, costs = re.split(r"\*\*(?:Generation|Cost)\.", page)
    assert [line.split(" | ")[0].strip("| ") for line in vaes.splitlines() if line.startswith("| ")][2:] == [
        *(m.title for m in METHODS.values()), "*ceiling*", "*floor*",
    ]  # fmt: skip
    assert f"| latent offset (LayerDiffuse) | 21.00 ± {HALF:.2f} |" in vaes
    assert f"| ours, + renders + diffusion prior | **24.00 ± {HALF:.2f}** |" in vaes
    assert "| paired tokens (TransPixeler) | 40.00 | 40.0000 |" in vaes  # trained nothing, so never in bold
    assert "| *ceiling* | 20.00 |" in vaes
    assert "| four channels (AlphaVAE) | 1.50 M | 0.0005 | 9 | 1.50 M | 0.001 | 9 | 3.0 |" in costs
    assert "| ours, naive: no renders | 1.50 M | 0.002 | 9 | – | – | – | – |" in costs
    assert "| paired tokens (TransPixeler) | – | – | – | 1.50 M | 0.002 | 9 | 3.0 |" in costs
    motion, matte = (block.splitlines() for block in generators.split("| | ")[1:])
    assert motion[2] == "| ours, + soft and hard renders | **0.9000 ± 0.0000** |"
    assert matte[0] == "alpha floor ×10³ ↓ | alpha edge width, px | background leak ×10³ ↓ |"
    assert matte[2] == f"| ours, + soft and hard renders | **2.000 ± {HALF:.3f}** | 1.00 ± 0.00 | **0.200 ± 0.000** |"
    assert matte[4] == "| latent offset (LayerDiffuse) | 7.000 ± 0.000 | 1.00 ± 0.00 | **0.200 ± 0.000** |"
    assert matte[5].endswith("| NaN (4/42) |")  # paired tokens': not averaged away
    assert matte[6] == "| *14 clips of the sample* | 0.000 | 1.50 | 0.000 |"
    found = json.loads(told[1].with_suffix(".json").read_text())["tried"]
    assert found["vae"]["alphavae"] == {"0.002": 30.0, "0.0005": 40.0}
    assert found["dit"]["paired"] == {"0.001": 0.5, "0.002": 0.4}


def test_what_was_made_with_other_keys_is_not_taken_for_these(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    methods.same_keys(Bench(tmp_path))
    methods.same_keys(Bench(tmp_path))
    monkeypatch.setattr(methods, "compare", lambda *_: pytest.fail("runs of other keys were taken"))
    monkeypatch.setattr("sys.argv", ["methods", "--runs", str(tmp_path), "trainer.max_steps=4"])
    with pytest.raises(SystemExit, match=r"no KEY=VALUE, not with trainer\.max_steps=4; give the same"):
        methods.main()


def test_no_adapter_is_trained_on_the_prompts_that_are_called_held_out() -> None:
    config = Bench(Path("runs")).dit_config("ours", 1, 1e-3, Path("runs/vae"))[0]
    assert isinstance(config.model, AlphaDiTConfig)
    assert config.data.root == "assets/fluent-sample"
    index = Path("assets/fluent-sample/index.jsonl").read_text().splitlines()
    trained = {row["meta"]["caption"] for row in map(json.loads, index) if row["shard"].startswith("train")}
    for prompt in load_prompts(str(methods.PROMPTS)):
        caption = prompt.text.removeprefix("an ").removeprefix("a ")
        assert (caption in trained) == (prompt.category == "trained"), prompt


def test_paired_tokens_give_clips_back_as_the_ceiling_does_but_for_alpha() -> None:
    small = ("data.val_clips=2", "data.size=[32,32]", "trainer.precision=32-true")
    config = Bench(Path("runs"), small).vae_config("ours", 0, 2e-3)[0]
    found, ceiling = methods.of_two_latents(config), RGBAMetrics()
    for batch in ClipDataModule(config.data, 0).val_dataloader():
        rgb, alpha = base_reconstructions(AlphaVAE.from_pretrained("tiny"), batch)["ceiling"]
        ceiling.update(rgb, alpha, batch["rgb"], batch["alpha"], batch["canvas"], batch["key"])
    expected = ceiling.compute()
    assert found["hard/psnr"] == pytest.approx(expected["hard/psnr"], abs=1e-3)
    assert 0.01 < abs(found["alpha/psnr"] - expected["alpha/psnr"]) < 1
