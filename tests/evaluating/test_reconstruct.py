"""task=reconstruction: a whole evaluation on a small base, its files, its continuation and its refusals."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import pytest
import torch
from evaluating.test_evaluate_config import compose
from torchmetrics.image.fid import FrechetInceptionDistance

from wan_alpha.baselines.interface import UnknownSystemError
from wan_alpha.command import ConfigError, validated
from wan_alpha.evaluating import reconstruct as module
from wan_alpha.evaluating.config import EvaluateConfig
from wan_alpha.evaluating.record import RecordError
from wan_alpha.evaluating.run import evaluate
from wan_alpha.evaluation.frechet import FeatureError, Moments, frechet_distance, picture_features
from wan_alpha.evaluation.reconstruction import NINE_COLOURS, ReconstructionEvaluation, nine_colours
from wan_alpha.lineage import folder_piece
from wan_alpha.models.alpha_vae import AdapterSpec, AlphaVAE

SMALL = [
    "task=reconstruction", "base=path", "data=clips", "data.size=[16,16]", "data.num_frames=5", "data.num_workers=0",
    "data.val_batch_size=2", "data.val_share=0.5", "networks.lpips=null", "report.worst=1", "report.players=false",
]  # fmt: skip


@pytest.fixture(scope="module")
def adapters(wan22: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    vae = AlphaVAE.from_pretrained(wan22, None, spec=AdapterSpec(rank=2))
    folder = tmp_path_factory.mktemp("adapters")
    vae.save_adapters(folder)
    return folder


def run(base: Path, clips: Path, out: Path, *overrides: str) -> dict:
    cfg = compose(*SMALL, f"base.path={base}", f"data.root={clips}", f"out={out}", *overrides)
    evaluate(*validated(cfg, EvaluateConfig))
    return json.loads((out / "summary.json").read_text())


def test_an_evaluation_leaves_tables_panels_and_everything_to_repeat_it(
    wan22: Path, clips: Path, adapters: Path, tmp_path: Path
) -> None:
    summary = run(wan22, clips, tmp_path, f"adapters={adapters}", "networks.lpips=bundled")
    chain = json.loads((tmp_path / "lineage.json").read_text())
    assert [piece["kind"] for piece in chain["made"] + chain["used"]] == ["evaluation", "data", "vae-adapters"]
    assert chain["used"][1]["sha256"] == folder_piece("vae-adapters", adapters).digest
    assert list(summary["systems"]) == ["ours", "ceiling", "floor"]
    count = len(summary["clips"])
    assert count >= 2
    ours = summary["systems"]["ours"]
    for name in ("alpha/psnr", "soft/ssim", "nine/psnr", "nine/lpips3", "alpha/sad_k", "alpha/messddt_e3"):
        assert ours[name]["count"] == count
        assert ours[name]["low"] <= ours[name]["mean"] <= ours[name]["high"]
    assert ours["alpha/rfid_vgg"]["mean"] > 0
    assert ours["alpha/rfid_vgg"]["low"] is None  # a figure of the whole set
    assert summary["systems"]["floor"]["alpha/mad_e3"]["mean"] > 300  # everything opaque
    with open(tmp_path / "scores.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 * count
    mean = sum(float(row["alpha/psnr"]) for row in rows if row["system"] == "ours") / count
    assert ours["alpha/psnr"]["mean"] == pytest.approx(mean)
    assert "| alpha PSNR ↑ |" in (tmp_path / "table.md").read_text()
    assert r"\begin{tabular}{l" in (tmp_path / "table.tex").read_text()
    assert (tmp_path / "panels" / "worst-ours.png").exists()
    assert json.loads((tmp_path / "environment.json").read_text())["packages"]["torch"]
    assert json.loads((tmp_path / "config.json").read_text())["facts"]["data"]


def test_an_interrupted_evaluation_continues_and_comes_to_the_same(
    wan22: Path, clips: Path, adapters: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = [f"adapters={adapters}", "references=[]", "nine_colours=false"]
    whole = run(wan22, clips, tmp_path / "whole", *small)
    monkeypatch.setattr(module, "SAVE_EVERY_SECONDS", 0)
    update, calls = ReconstructionEvaluation.update, []

    def interrupted(self, batch, device):  # type: ignore[no-untyped-def]
        calls.append(batch["key"])
        if len(calls) == 2:
            update(self, batch, device)  # scored, but not saved
            raise KeyboardInterrupt
        return update(self, batch, device)

    monkeypatch.setattr(ReconstructionEvaluation, "update", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(wan22, clips, tmp_path / "parts", *small)
    parts = run(wan22, clips, tmp_path / "parts", *small)
    assert calls[2] == calls[1]  # not the first batch again
    assert parts["systems"] == whole["systems"]


def test_a_directory_of_another_evaluation_is_refused(wan22: Path, clips: Path, tmp_path: Path) -> None:
    run(wan22, clips, tmp_path, "nine_colours=false", "networks.fid=null", "references=[floor]")
    with pytest.raises(RecordError, match=r"holds another evaluation:\n  config.data.num_frames: 5 -> 1"):
        run(
            wan22, clips, tmp_path, "nine_colours=false", "networks.fid=null", "references=[floor]", "data.num_frames=1"
        )


def test_what_cannot_be_measured_is_said(wan22: Path, clips: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="logger=tensorboard is for"):
        run(wan22, clips, tmp_path / "t", "logger=tensorboard")
    with pytest.raises(module.UnmeasurableError, match="nothing to measure"):
        run(wan22, clips, tmp_path / "a", "references=[]")
    with pytest.raises(UnknownSystemError, match="nowhere: expected adapters of stage=vae"):
        run(wan22, clips, tmp_path / "b", "adapters=nowhere")
    with pytest.raises(module.UnmeasurableError, match=r"codecs.floor: the name of a reference"):
        run(wan22, clips, tmp_path / "c", "codecs.floor=tiny")
    with pytest.raises(module.UnmeasurableError, match=r"codecs.ours: adapters= is called so"):
        run(wan22, clips, tmp_path / "d", "adapters=a", "codecs.ours=b")


def test_frechet_distance_of_known_gaussians_and_of_torchmetrics(capfd: pytest.CaptureFixture[str]) -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(4000, 3, generator=generator), torch.randn(4000, 3, generator=generator) * 2 + 1
    first, second = Moments(), Moments()
    for part in a.split(1000):
        first.add(part)
    second.add(b)
    assert frechet_distance(first, second) == pytest.approx(3 * (1 + 1), rel=0.1)  # |1|^2 + (2 - 1)^2, per dimension
    assert frechet_distance(first, first) == pytest.approx(0, abs=1e-9)

    class Means(torch.nn.Module):
        num_features = 3

        def forward(self, pictures: torch.Tensor) -> torch.Tensor:
            return pictures.float().mean((2, 3))

    theirs = FrechetInceptionDistance(feature=Means()).set_dtype(torch.float64)
    pictures = torch.randint(0, 255, (2, 20, 3, 8, 8), dtype=torch.uint8, generator=generator)
    ours = [Moments(), Moments()]
    for i in (0, 1):
        theirs.update(pictures[i], real=bool(i))
        ours[i].add(Means()(pictures[i]))
    assert frechet_distance(*ours) == pytest.approx(float(theirs.compute()), rel=1e-6)
    lonely = Moments()
    lonely.add(a[:1])
    broken = Moments()
    broken.add(torch.full((4, 3), float("nan")))
    assert math.isnan(frechet_distance(lonely, first))
    assert math.isnan(frechet_distance(broken, first))
    assert capfd.readouterr() == ("", "")  # LAPACK complains of NaN where nobody asked


def test_a_network_given_by_path_sees_bytes(tmp_path: Path) -> None:
    class Means(torch.nn.Module):
        def forward(self, pictures: torch.Tensor) -> torch.Tensor:
            return pictures.to(torch.float32).mean((2, 3))

    torch.jit.script(Means()).save(str(tmp_path / "means.pt"))
    name, see, description = picture_features(str(tmp_path / "means.pt"), torch.device("cpu"))
    assert name == "rfid"
    assert see(torch.ones(2, 3, 4, 4)).tolist() == [[255.0] * 3] * 2
    assert description.startswith("means.pt, sha256 ")
    (tmp_path / "broken.pt").write_bytes(b"no network")
    with pytest.raises(FeatureError, match="expected a TorchScript file"):
        picture_features(str(tmp_path / "broken.pt"), torch.device("cpu"))


def test_nine_colours_by_hand() -> None:
    """A white, opaque clip comes back half transparent: on white nothing changes, on black it is grey."""
    rgb, alpha = torch.ones(1, 3, 1, 16, 16), torch.ones(1, 1, 1, 16, 16)
    found = nine_colours(rgb, alpha * 0.5, rgb, alpha)
    expected = []
    for colour in NINE_COLOURS.values():
        error = sum((0.5 * (1 - (c + 1) / 2)) ** 2 for c in colour) / 3
        expected.append(100.0 if error == 0 else -10 * torch.tensor(error).log10().item())
    assert found["nine/psnr"] == pytest.approx(sum(expected) / 9, rel=1e-4)
