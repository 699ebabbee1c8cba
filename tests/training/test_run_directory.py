"""What a run leaves behind, and what its numbers mean."""

from __future__ import annotations

import csv
import importlib.metadata
import json
import math
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import wandb
from launch import small, train
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from wandb.proto.wandb_internal_pb2 import Record

from wan_alpha import AlphaVAE
from wan_alpha.data.dataset import Batch, ClipDataset
from wan_alpha.lineage import folder_piece
from wan_alpha.models.adapters import AdapterError
from wan_alpha.training import provenance
from wan_alpha.training.checkpoints import last_checkpoint
from wan_alpha.training.metrics_csv import SPEED
from wan_alpha.wandb_dashboard import SECTIONS


def read_csv(run_dir: Path) -> list[dict[str, str]]:
    with open(run_dir / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def run_dir(wan22: Path, clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with everything on: perceptual loss, LPIPS, panels, W&B offline, TensorBoard."""
    where = tmp_path_factory.mktemp("run")
    extras = ["loss.weights.perceptual=0.1", "callbacks.lpips=bundled", "callbacks.panels=true", "logger=wandb"]
    extras += ["logger.tensorboard=true"]
    train(*small(wan22, clips, where, *extras, "trainer.max_steps=4", "trainer.val_every_n_steps=2"))
    return where


def test_everything_is_there(run_dir: Path) -> None:
    for name in ("config.json", "environment.json", "metrics.csv", "metrics.json", "table.md"):
        assert (run_dir / name).stat().st_size > 0, name
    checkpoints = sorted(f.name for f in (run_dir / "checkpoints").iterdir())
    assert checkpoints == ["step-00000002.ckpt", "step-00000004.ckpt"]
    assert {f.name for f in (run_dir / "adapters").iterdir()} == {"adapters.json", "adapters.safetensors"}
    assert not list(run_dir.rglob("*.tmp"))


def test_what_is_needed_to_repeat_it(run_dir: Path) -> None:
    config = json.loads((run_dir / "config.json").read_text())
    assert (config["seed"], config["optim"]["lr"], config["data"]["size"]) == (0, 0.01, [16, 16])
    environment = json.loads((run_dir / "environment.json").read_text())
    assert environment["packages"]["torch"] == importlib.metadata.version("torch")
    assert environment["packages"]["diffusers"] == importlib.metadata.version("diffusers")
    assert environment["seed"] == 0
    assert len(environment["data"]["train"]) == len(environment["data"]["val"]) == 64
    assert environment["data"]["train"] != environment["data"]["val"]
    assert set(environment["git"]) == {"commit", "modified"}


def test_a_package_that_came_another_way_ends_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "PACKAGES", ("torch", "no-such-package"))
    assert provenance.describe_environment()["packages"] == {"torch": importlib.metadata.version("torch")}


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_last_step_is_validated_once_whatever_the_interval(
    accumulate: int, wan22: Path, clips: Path, tmp_path: Path
) -> None:
    steps = ["trainer.max_steps=4", f"trainer.accumulate_grad_batches={accumulate}", "trainer.log_every_n_steps=1"]
    for every, expected in ((3, ["3", "4"]), (2, ["2", "4"])):
        place = tmp_path / str(every)
        train(*small(wan22, clips, place, *steps, f"trainer.val_every_n_steps={every}"))
        measured = [row["step"] for row in read_csv(place) if row.get("val/soft/psnr")]
        assert measured == expected
        assert "After 4 steps" in (place / "table.md").read_text()


def test_checkpoints_hold_what_is_trained_and_not_the_base(run_dir: Path) -> None:
    checkpoint = last_checkpoint(run_dir)
    assert checkpoint is not None
    state = torch.load(checkpoint, weights_only=True)
    assert {name.split(".")[0] for name in state["state_dict"]} == {"merge", "rgb", "alpha"}
    numbers = sum(t.numel() for t in state["state_dict"].values())
    assert checkpoint.stat().st_size < 4.5 * 4 * numbers + 300_000  # weights, average, two moments; no base


def test_the_exported_adapters_are_the_average_and_load(run_dir: Path, wan22: Path) -> None:
    checkpoint = last_checkpoint(run_dir)
    assert checkpoint is not None
    callbacks = torch.load(checkpoint, weights_only=True)["callbacks"]
    average = next(state for name, state in callbacks.items() if "AdapterEMA" in name)["average"]
    vae = AlphaVAE.from_pretrained(wan22, run_dir)
    assert all(torch.equal(t, average[name]) for name, t in vae.adapter_state().items())


def test_training_goes_on_from_exported_adapters(run_dir: Path, wan22: Path, clips: Path, tmp_path: Path) -> None:
    steps = ["trainer.max_steps=1", "trainer.val_every_n_steps=0", "optim.lr=1e-12"]
    train(*small(wan22, clips, tmp_path, f"model.init_from={run_dir}", *steps))
    before, after = (AlphaVAE.from_pretrained(wan22, run).adapter_state() for run in (run_dir, tmp_path))
    for name, tensor in before.items():
        torch.testing.assert_close(after[name], tensor, atol=1e-9, rtol=0)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        # Its tensors would fit, and mean twice as much.
        ("model.lora.alpha=32", r"which has model.lora.alpha=32: set model.lora.alpha=48"),
        ("model.lora.rank=3", r"which has model.lora.rank=3: set model.lora.rank=2"),
        ("model.merge.residual_blocks=1", r"residual_blocks=1: set model.merge.residual_blocks=3"),
    ],
)
def test_adapters_of_another_shape_are_no_start(
    override: str, said: str, run_dir: Path, wan22: Path, clips: Path, tmp_path: Path
) -> None:
    with pytest.raises(AdapterError, match=rf"model.init_from={run_dir} has another shape than this run, .*{said}"):
        train(*small(wan22, clips, tmp_path, f"model.init_from={run_dir}", override))


def test_metrics_have_a_row_per_logged_step(run_dir: Path) -> None:
    rows = read_csv(run_dir)
    assert [int(row["step"]) for row in rows] == [1, 2, 3, 4]  # steps done
    assert all(math.isfinite(float(row["train/loss"])) for row in rows)
    weights = json.loads((run_dir / "config.json").read_text())["loss"]["weights"]
    pairs = [(p, k) for p in ("alpha", "soft", "hard") for k in ("l1", "mse", "perceptual", "edge")]
    for row in rows:
        expected = sum(weights[p] * weights[k] * float(row[f"train/{p}/{k}"]) for p, k in pairs)
        assert float(row["train/loss"]) == pytest.approx(expected, rel=1e-5)
    assert [bool(row["val/alpha/psnr"]) for row in rows] == [False, True, False, True]


def test_the_table_compares_with_the_base(run_dir: Path) -> None:
    table = (run_dir / "table.md").read_text()
    for row in ("ours", "ceiling", "floor"):
        assert f"| {row}" in table
        assert f"{row}: " in table  # and what that is
    metrics = json.loads((run_dir / "metrics.json").read_text())
    assert metrics["step"] == 4
    assert metrics["mean"]["ceiling"]["alpha/psnr"] > metrics["mean"]["floor"]["alpha/psnr"]
    last = read_csv(run_dir)[-1]
    assert float(last["val/alpha/psnr"]) == pytest.approx(metrics["mean"]["ours"]["alpha/psnr"])
    assert len(metrics["clips"]) == 2  # the held-out clips, each by name


def test_the_fresh_model_is_the_base_s_own_rgb(wan22: Path, clips: Path, tmp_path: Path) -> None:
    """Before anything is learned, hard renders are as good as the ceiling's: the merge block starts exactly there."""
    train(*small(wan22, clips, tmp_path, "trainer.max_steps=1", "trainer.val_every_n_steps=1", "optim.lr=1e-12"))
    means = json.loads((tmp_path / "metrics.json").read_text())["mean"]
    assert means["ours"]["alpha/psnr"] != means["ceiling"]["alpha/psnr"]
    floor = {name: value for name, value in means["floor"].items() if name.startswith("hard")}
    assert floor
    for name, value in floor.items():
        assert means["ceiling"][name] == pytest.approx(value, rel=1e-6)
        assert means["ours"][name] == pytest.approx(value, rel=1e-4)


def test_panels_are_pictures_and_loop(run_dir: Path) -> None:
    for step in (2, 4):
        stem = run_dir / "panels" / f"step-{step:08d}"
        with Image.open(stem.with_suffix(".png")) as png, Image.open(stem.with_suffix(".webp")) as webp:
            assert png.size[0] > 5 * 16
            assert webp.n_frames == 5
            assert webp.info["loop"] == 0


def test_wandb_has_the_films(run_dir: Path) -> None:
    offline = list(run_dir.glob("wandb/offline-run-*"))
    assert len(offline) == 1
    assert list(offline[0].glob("run-*.wandb"))
    films = list(offline[0].glob("files/media/videos/*.mp4"))
    assert len(films) == 2 * 2  # two validations of two clips
    assert all(film.read_bytes()[4:8] == b"ftyp" for film in films)


def test_the_dashboard_shows_figures_that_a_run_has(run_dir: Path) -> None:
    shown = {name for plot in SECTIONS["RGBA VAE"].values() for name in plot}
    assert shown <= set(read_csv(run_dir)[0])


def test_its_place_in_the_chain_is_written_and_logged(run_dir: Path) -> None:
    """As a file, and in W&B's own record of the run: what it made as an artifact, what it used by its digest."""
    chain = json.loads((run_dir / "lineage.json").read_text())
    made = folder_piece("vae-adapters", run_dir / "adapters")
    data = json.loads((run_dir / "environment.json").read_text())["data"]["train"]
    assert chain["made"] == [{"kind": "vae-adapters", "name": made.name, "sha256": made.digest}]
    assert chain["used"] == [{"kind": "data", "name": f"data-{data[:12]}", "sha256": data}]
    kept = wandb_records(run_dir)
    assert kept.artifacts == [made.name]
    assert kept.config["lineage"] == chain
    assert set(kept.config["code"]) == {"commit", "modified"}


def test_wandb_keeps_every_figure_of_the_table_and_the_configuration(run_dir: Path) -> None:
    kept, rows = wandb_records(run_dir), read_csv(run_dir)
    assert {"train/loss", "val/soft/psnr"} <= set(rows[0])
    for column in set(rows[0]) - {"step"}:
        written = {int(row["step"]): float(row[column]) for row in rows if row.get(column)}
        logged = {row["trainer/global_step"]: row[column] for row in kept.history if column in row}
        assert logged == pytest.approx(written), column
    assert kept.config["trainer"]["max_steps"] == 4
    assert kept.config["data"]["root"] == json.loads((run_dir / "config.json").read_text())["data"]["root"]
    assert {"environment", "history", "summary", "run"} <= kept.records


def leveldb_records(content: bytes) -> Iterator[bytes]:
    """W&B's file is a log of LevelDB behind seven bytes: blocks of 32 KiB with pieces (crc, length, kind) in them."""
    at, parts = 7, []
    while at + 7 <= len(content):
        if 32768 - at % 32768 < 7:  # no header fits: the rest of the block is padding
            at += 32768 - at % 32768
            continue
        length, kind = struct.unpack_from("<HB", content, at + 4)
        parts.append(content[at + 7 : at + 7 + length])
        at += 7 + length
        if kind in (1, 4):  # whole, or the last of several
            yield b"".join(parts)
            parts = []


class Kept(NamedTuple):
    """What W&B keeps offline: names of artifacts, configuration, logged rows, kinds of records."""

    folder: Path
    artifacts: list[str]
    config: dict[str, Any]
    history: list[dict[str, Any]]
    records: set[str]


def wandb_records(run_dir: Path) -> Kept:
    """From the file that `wandb sync` sends; the client has no reader of its own in Python."""
    (file,) = run_dir.glob("wandb/offline-run-*/run-*.wandb")
    kept = Kept(file.parent, [], {}, [], set())
    for data in leveldb_records(file.read_bytes()):
        record = Record()
        record.ParseFromString(data)
        if record.HasField("artifact"):
            kept.artifacts.append(record.artifact.name)
        for update in (*record.config.update, *record.run.config.update):
            kept.config[update.key or ".".join(update.nested_key)] = json.loads(update.value_json)
        if record.HasField("history"):
            row = {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            kept.history.append(row)
        kept.records.add(str(record.WhichOneof("record_type")))
    return kept


def test_tensorboard_reads_what_the_table_has(run_dir: Path) -> None:
    reader = EventAccumulator(str(run_dir / "tensorboard"))
    reader.Reload()
    for column in ("train/loss", "val/soft/psnr"):
        written = {int(row["step"]): float(row[column]) for row in read_csv(run_dir) if row[column]}
        assert {e.step: e.value for e in reader.Scalars(column)} == pytest.approx(written)
    assert len([tag for tag in reader.Tags()["images"] if tag.startswith("panels/")]) == 2
    (config,) = reader.Tensors("config/text_summary")
    assert b"checkpoint_every_n_steps: 2" in config.tensor_proto.string_val[0]


def test_no_wandb_run_is_left_open(run_dir: Path) -> None:
    assert wandb.run is None


def first_row(run_dir: Path) -> dict[str, float]:
    return {k: float(v) for k, v in read_csv(run_dir)[0].items() if v}


def test_accumulated_batches_are_one_larger_batch(wan22: Path, clips: Path, tmp_path: Path) -> None:
    once = ["trainer.max_steps=1", "trainer.val_every_n_steps=0", "trainer.gradient_clip_val=0"]
    train(*small(wan22, clips, tmp_path / "one", *once, "data.batch_size=4"))
    train(*small(wan22, clips, tmp_path / "two", *once, "data.batch_size=2", "trainer.accumulate_grad_batches=2"))
    one, two = first_row(tmp_path / "one"), first_row(tmp_path / "two")
    for name in one.keys() - set(SPEED):
        assert two[name] == pytest.approx(one[name], rel=1e-5), name
    states = [
        torch.load(tmp_path / n / "checkpoints" / "step-00000001.ckpt", weights_only=True) for n in ("one", "two")
    ]
    moments = [state["optimizer_states"][0]["state"] for state in states]
    for a, b in zip(moments[0].values(), moments[1].values(), strict=True):  # Adam's first moment is 0.1 gradient
        torch.testing.assert_close(b["exp_avg"], a["exp_avg"], rtol=1e-3, atol=1e-8)


def test_stage_base_makes_a_base_that_stage_vae_takes(clips: Path, tmp_path: Path) -> None:
    architecture = [
        "model.architecture.base_dim=8",
        "model.architecture.z_dim=4",
        "model.architecture.latents_mean=[0,0,0,0]",
        "model.architecture.latents_std=[1,1,1,1]",
    ]
    removed = ("model.lora", "loss.", "base=", "base.path")
    command = [part for part in small(tmp_path, clips, tmp_path / "base") if not part.startswith(removed)]
    train("stage=base", *command, *architecture, "trainer.max_steps=2", "trainer.val_every_n_steps=2")
    vae = AlphaVAE.from_pretrained(tmp_path / "base" / "base")
    std = vae.latents_std.flatten()
    assert len(std) == 4
    assert (std != 1).all()  # measured
    rows = read_csv(tmp_path / "base")
    assert float(rows[-1]["val/alpha/psnr"]) > 0
    train(*small(tmp_path / "base" / "base", clips, tmp_path / "vae", "trainer.max_steps=1"))


def test_waiting_for_data_is_a_metric_and_is_said(
    wan22: Path, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    read = ClipDataset.__getitems__

    def read_slowly(self: ClipDataset, numbers: list[int]) -> Batch:
        time.sleep(0.4)
        return read(self, numbers)

    monkeypatch.setattr(ClipDataset, "__getitems__", read_slowly)
    quick = ["trainer.max_steps=2", "trainer.val_every_n_steps=0", "callbacks.progress=true"]
    began = time.perf_counter()
    train(*small(wan22, clips, tmp_path, *quick))
    elapsed = time.perf_counter() - began
    shares = [float(row["train/data_wait"]) for row in read_csv(tmp_path)]
    assert all(0.4 / elapsed < share <= 1 for share in shares)
    assert "waiting for data" in capsys.readouterr().out
