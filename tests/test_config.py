"""The configuration tree and its schema agree, and every experiment composes and runs."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import hydra
import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue
from small_dit_base import write_complete_base, write_image_transformer

from wan_alpha.command import ConfigError, valid_keys
from wan_alpha.training import run
from wan_alpha.training.build import build_loss, build_module
from wan_alpha.training.config import AlphaDiTConfig, RunConfig
from wan_alpha.training.entry import checked
from wan_alpha.training.identity import (
    FREE,
    LATER,
    PART_OF_THE_NAME,
    differing_keys,
    is_free,
    register_resolver,
    run_id,
)
from wan_alpha.training.precision import resolve_precision

ROOT = Path(__file__).resolve().parents[1]
CONF = ROOT / "conf"
GROUPS = ["base", "callbacks", "data", "logger", "model", "stage", "trainer"]
OPTIONS = [(group, file.stem) for group in GROUPS for file in sorted((CONF / group).glob("*.yaml"))]
EXPERIMENTS = sorted(file.stem for file in (ROOT / "experiments").glob("*.yaml"))
# What has no value until the user gives one.
GIVEN = ["base.path=BASE", "data.root=CLIPS"]


def compose(*overrides: str) -> DictConfig:
    register_resolver()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return hydra.compose("train", list(overrides))


def leaves(tree: Any, prefix: str = "") -> set[str]:
    """Dotted keys of a tree, those of inner nodes included."""
    found: set[str] = set()
    for key, value in tree.items() if isinstance(tree, dict) else ():
        found |= {f"{prefix}{key}"} | leaves(value, f"{prefix}{key}.")
    return found


def keys(cfg: DictConfig) -> set[str]:
    free_form = "model.architecture."  # goes to diffusers as it is
    return {key for key in leaves(OmegaConf.to_container(cfg)) if not key.startswith(free_form)}


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_of_every_group_is_valid(group: str, option: str) -> None:
    stage = ["stage=dit"] if (group, option) == ("data", "latents") else []
    config, tree = checked(compose(f"{group}={option}", *stage, *GIVEN))
    assert tree[group if group != "stage" else "stage"] is not None
    assert config.run_dir.startswith("runs/")


def test_files_and_schema_have_the_same_keys() -> None:
    # Of lists that have no items unless someone gives them, and of a fresh transformer, which the default is not.
    items = ("data.sources.", "data.buckets.", "model.fresh.")
    schema = {key for key in valid_keys(RunConfig) if not key.startswith(items)}
    reachable: set[str] = set()
    for group, option in OPTIONS:
        found = keys(compose(f"{group}={option}"))
        assert found <= schema, f"{group}={option}"
        reachable |= found
    assert reachable == schema


@pytest.mark.parametrize("debug", [file.stem for file in sorted((CONF / "debug").glob("*.yaml"))])
def test_debug_options(debug: str) -> None:
    config, _ = checked(compose(f"debug={debug}", *GIVEN))
    assert config.trainer.max_steps <= 5
    assert config.ckpt_path is None


@pytest.mark.parametrize("group", ["data=clips", "data=shards", "base=path"])
def test_what_only_the_user_knows_has_no_silent_default(group: str) -> None:
    with pytest.raises(ConfigError, match=r"^(data.root|base.path) has no value: give it on the command line, "):
        checked(compose(group))
    with pytest.raises(MissingMandatoryValue):
        _ = compose(group)[group.split("=")[0]]["root" if "data" in group else "path"]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_says_what_and_how_and_is_valid(name: str) -> None:
    text = (ROOT / "experiments" / f"{name}.yaml").read_text()
    assert text.startswith("# @package _global_\n# ")
    assert "python train.py " in text
    assert f"experiment={name}" in text
    config, _ = checked(compose(f"experiment={name}", *GIVEN))
    assert config.stage in ("base", "vae", "dit")


SMALL = [
    "base=path",
    "data=clips",
    "data.size=[16,16]",
    "data.num_frames=5",
    "data.batch_size=1",
    "data.num_workers=0",
    "data.val_clips=1",
    "trainer=cpu",
    "trainer.devices=1",
    "trainer.strategy=auto",
    "trainer.precision=32-true",
    "trainer.accumulate_grad_batches=1",
    "trainer.threads=1",
    "trainer.max_steps=2",
    "trainer.val_every_n_steps=2",
    "callbacks.progress=false",
]
SMALL_STAGE = {
    "base": ["model.init_from=null", "model.architecture.base_dim=8"],
    "vae": [
        "model.init_from=null", "model.lora.rank=2", "loss.perceptual.weights=bundled", "callbacks.lpips=null",
        "callbacks.panels=false",
    ],
    "dit": [
        "model.init_from=null", "data.only=[]", "data.exclude=[]", "model.adapter.rank=2",
        "model.samples.prompts=[disc1]", "model.samples.steps=2",
        "trainer.activation_checkpointing=false", "model.frozen.compile=false",
        "model.frozen.dtype=float32",  # bfloat16 needs the autocast that trainer.precision=32-true switches off
    ],
}  # fmt: skip
OUTCOME = {"base": ("base", "val/alpha/psnr"), "vae": ("adapters", "val/alpha/psnr"), "dit": (None, "val/loss")}


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small base with all parts, and adapters of the RGBA VAE in DIR/adapters."""
    return write_complete_base(tmp_path_factory.mktemp("complete"), adapters=True)


def image_base(complete: Path, root: Path) -> Path:
    """The same base with an image-to-video transformer: it also takes a mask and the latent of the first frame."""
    shutil.copytree(complete, root)
    return write_image_transformer(root)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_runs(name: str, complete: Path, clips: Path, tmp_path: Path) -> None:
    """Two steps and a validation, with a small base and small clips in place of its own."""
    config = checked(compose(f"experiment={name}", *GIVEN))[0]
    given = list(SMALL_STAGE[config.stage])
    if isinstance(config.model, AlphaDiTConfig):
        given += [f"model.vae_adapters={complete}"] if config.model.vae_adapters else []
        given += ["model.variants=1"] if config.model.variants else []
        given += ["model.fresh.transformer.num_layers=1"] if config.model.fresh else []
    given += [f"loss.prior.base={complete}"] if config.stage == "vae" else []
    i2v = isinstance(config.model, AlphaDiTConfig) and config.model.task == "i2v"
    base = image_base(complete, tmp_path / "base") if i2v else complete
    places = [f"base.path={base}", f"data.root={clips}", f"run_dir={tmp_path}"]
    run.train(*checked(compose(f"experiment={name}", *SMALL, *given, *places)))
    directory, figure = OUTCOME[config.stage]
    assert any((tmp_path / name).is_dir() for name in ([directory] if directory else ["adapters", "base"]))
    assert figure in (tmp_path / "metrics.csv").read_text()


def test_the_default_run_directory_follows_from_what_is_run() -> None:
    def run_dir(*overrides: str) -> str:
        return checked(compose(*overrides))[0].run_dir

    default = run_dir()
    assert default.startswith("runs/vae-tiny-")
    assert run_dir("data.num_workers=3", "trainer.devices=2") == default
    changes = ["optim.lr=0.5", "seed=1", "model.lora.rank=3", "loss.weights.edge=0", "data.batch_size=1"]
    assert len({default, *(run_dir(change) for change in changes)}) == 1 + len(changes)


@pytest.mark.parametrize(("built_for_bf16", "meaning"), [(True, "bf16-mixed"), (False, "32-true")])
def test_automatic_precision_follows_the_processor(
    built_for_bf16: bool, meaning: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: built_for_bf16)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    config = checked(compose("trainer=cpu"))[0]
    assert config.trainer.precision == "auto"
    assert resolve_precision(config.trainer) == meaning
    assert run.build_trainer(config).precision == meaning
    if not built_for_bf16:
        frozen = checked(compose("trainer=cpu", "stage=dit", "model.frozen.dtype=bfloat16"))[0]
        with pytest.raises(ConfigError, match=r"bfloat16 needs trainer.precision=bf16-mixed; .*auto is 32-true here"):
            build_module(frozen)
    config.trainer.precision = "32-true"
    assert resolve_precision(config.trainer) == "32-true"


@pytest.mark.parametrize(("built_for_bf16", "meaning"), [(True, "bf16-mixed"), (False, "32-true")])
def test_automatic_precision_follows_the_gpu_where_there_is_one(
    built_for_bf16: bool, meaning: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def supported(including_emulation: bool = True) -> bool:
        return built_for_bf16 or including_emulation

    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: not built_for_bf16)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    for accelerator in ("gpu", "cuda", "auto"):
        trainer = checked(compose(f"trainer.accelerator={accelerator}"))[0].trainer
        assert resolve_precision(trainer) == meaning, accelerator


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
@pytest.mark.parametrize("precision", ["auto", "bf16-mixed"])
def test_a_gpu_that_is_not_there_is_a_sentence(precision: str, tmp_path: Path) -> None:
    overrides = ["trainer=gpu", f"trainer.precision={precision}", f"run_dir={tmp_path}", "base=path", "base.path=none"]
    with pytest.raises(ConfigError, match=r"accelerator=gpu, devices=1, strategy=auto cannot be had: .*; trainer=cpu"):
        run.train(*checked(compose(*overrides)))  # before a base is looked for, or fetched


def test_the_perceptual_loss_looks_at_as_many_frames_as_configured() -> None:
    for every in (1, 4):
        config = checked(compose(f"loss.perceptual.every={every}"))[0]
        assert config.loss is not None
        perceptual = build_loss(config.loss).perceptual
        assert perceptual is not None
        assert perceptual.every == every


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("loss.perceptual.layers=[relu5_3]", 'loss: .*use weights="imagenet", or a shallower layer'),
        ("loss.perceptual.weights=none.pth", "loss: .*none.pth"),
        ("loss.weights={alpha:0,soft:0,hard:0}", "loss: .*weight 0, nothing to compare"),
    ],
)
def test_a_loss_that_cannot_be_built_is_a_sentence(override: str, said: str) -> None:
    config = checked(compose(override))[0]
    assert config.loss is not None
    with pytest.raises(ConfigError, match=said):
        build_loss(config.loss)


def test_lpips_weights_that_are_not_there_are_a_sentence(tmp_path: Path) -> None:
    config = checked(compose("callbacks.lpips=none.pth"))[0]
    with pytest.raises(ConfigError, match=r"callbacks.lpips=none.pth: .*none.pth"):
        run.build_callbacks(config, {})


SOURCES = "data.sources=[{root:A,weight:2},{root:'s3://bucket/b'}]"


def test_several_sources_take_the_place_of_a_root() -> None:
    config, tree = checked(compose("data=shards", SOURCES))
    assert config.data.root is None
    assert [(s.root, s.weight) for s in config.data.sources or ()] == [("A", 2.0), ("s3://bucket/b", 1.0)]
    assert tree["data"]["root"] is None
    one = checked(compose("data=shards", "data.sources=[{root:A}]"))[0].run_dir
    assert one != config.run_dir
    for overrides in (["data=shards", SOURCES, "data.root=C"], ["data=sample", "data.root=null"]):
        with pytest.raises(ConfigError, match=r"give data.root \(one set\) or data.sources \(several\), not both"):
            checked(compose(*overrides))


def test_the_place_of_the_bytes_is_no_part_of_a_run_and_what_is_cut_from_them_is() -> None:
    def tree(*overrides: str) -> dict[str, Any]:
        return checked(compose(*overrides))[1]

    places = ["data.cache_dir=/elsewhere", "data.cache_gb=1", "data.fetch=shards"]
    assert not differing_keys(tree(), tree(*places, "data.root=s3://bucket/copy"))
    assert checked(compose(*places))[0].run_dir == checked(compose())[0].run_dir
    buckets = differing_keys(tree(), tree("data.buckets=[{num_frames:5,size:[64,64]},{num_frames:1,size:[64,64]}]"))
    assert [difference.split(":")[0] for difference in buckets] == ["data.buckets"]
    assert differing_keys(tree(), tree("data.frame_stride=[1,2]")) == ["data.frame_stride: 1 -> [1, 2]"]


def test_a_later_key_at_its_neutral_value_is_no_part_of_a_run() -> None:
    now = checked(compose("loss.weights.mse=0"))[1]
    before = now | {"loss": now["loss"] | {"weights": {k: v for k, v in now["loss"]["weights"].items() if k != "mse"}}}
    assert not differing_keys(before, now)
    assert run_id(before) == run_id(now)
    other = checked(compose("loss.weights.mse=3"))[1]
    assert differing_keys(before, other) == ["loss.weights.mse: 0.0 -> 3"]
    assert run_id(other) != run_id(now)


@pytest.mark.parametrize("stage", ["vae", "dit"])
def test_runs_of_a_gpu_from_before_norms_were_fused_go_on(stage: str) -> None:
    """The same equation, rounded otherwise; stage=dit has no such norms at all."""
    now = checked(compose(f"stage={stage}", "trainer=gpu"))[1]
    assert now["trainer"]["fuse_norms"]
    before = now | {"trainer": {k: v for k, v in now["trainer"].items() if k != "fuse_norms"}}
    assert not differing_keys(before, now)
    assert run_id(before) == run_id(now)


def test_keys_that_are_free_on_resume_exist() -> None:
    assert set(FREE) | set(PART_OF_THE_NAME) | set(LATER) <= set(valid_keys(RunConfig))
    assert is_free("logger.wandb.mode")
    assert not is_free("optim.lr")
