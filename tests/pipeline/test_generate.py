"""`generate.py`: files that stay, prompts that are only text, a command that continues."""

from __future__ import annotations

import io
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from generate_calls import QUIET, alpha_of
from models.test_form import WAN22_5B, WAN22_VAE
from rich.console import Console

from wan_alpha.evaluation.prompts import load_prompts
from wan_alpha.interop.weights import read_weights, write_weights
from wan_alpha.models.adapters import AdapterError
from wan_alpha.models.base import SizeError
from wan_alpha.pipeline import generate as module
from wan_alpha.pipeline.composite import BackgroundError
from wan_alpha.pipeline.config import GenerateConfig
from wan_alpha.pipeline.generate import generate
from wan_alpha.pipeline.image_to_video import ImageError
from wan_alpha.pipeline.jobs import missing_files, plan, settings
from wan_alpha.pipeline.pipeline import AlphaWanPipeline
from wan_alpha.pipeline.video import OutputError, Video

pytestmark = pytest.mark.usefixtures("loaded")


# ----- what is made --------------------------------------------------------------------------------------------------


def test_prompts_times_seeds_with_names_and_records(config: GenerateConfig, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a parrot\n\nfire\n")
    config = replace(config, prompts=str(tmp_path / "prompts.txt"), seed=[0, 7], batch_size=3)
    files = generate(config, QUIET)
    names = ["a-parrot-s0-png", "a-parrot-s7-png", "fire-s0-png", "fire-s7-png"]
    assert [path.name for path in files] == names
    assert json.loads((tmp_path / "out" / "fire-s7.json").read_text())["seed"] == 7
    # Another batch, the same video.
    alone = replace(config, prompts=None, prompt="fire", seed=7, batch_size=1, out=str(tmp_path / "alone"))
    (folder,) = generate(alone, QUIET)
    difference = alpha_of(folder).astype(int) - alpha_of(tmp_path / "out" / "fire-s7-png")
    assert np.abs(difference).max() <= 1


def test_ids_name_the_files_that_evaluation_looks_for(config: GenerateConfig, tmp_path: Path) -> None:
    (tmp_path / "list.json").write_text(json.dumps({"001": "a glass", "002": "smoke"}))
    assert [job.name for job in plan(replace(config, prompts=str(tmp_path / "list.json")))] == ["001", "002"]
    two = plan(replace(config, prompts=str(tmp_path / "list.json"), seed=[1, 2]))
    assert [job.name for job in two] == ["001-s1", "001-s2", "002-s1", "002-s2"]
    bench = plan(replace(config, prompts="bench"))
    assert [(job.name, job.prompt) for job in bench] == [(p.id, p.text) for p in load_prompts("bench")]
    (tmp_path / "rows.csv").write_text("id,text\nglass,a glass\n")
    assert [job.name for job in plan(replace(config, prompts=str(tmp_path / "rows.csv")))] == ["glass"]


def test_finished_files_stay_and_the_same_command_makes_the_others(
    config: GenerateConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(config, prompt="a parrot", seed=[0, 1, 2])
    original, made = AlphaWanPipeline.__call__, []

    def interrupted_at_the_second(self: AlphaWanPipeline, *args: object, **kwargs: object) -> object:
        made.append(kwargs["seed"])
        if len(made) == 2:
            raise KeyboardInterrupt
        return original(self, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(AlphaWanPipeline, "__call__", interrupted_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        generate(config, QUIET)
    first = Path(config.out) / "a-parrot-s0-png"
    before = (first.stat().st_ino, first.stat().st_mtime_ns)
    files = generate(config, QUIET)
    assert made == [[0], [1], [1], [2]]
    assert (first.stat().st_ino, first.stat().st_mtime_ns) == before
    assert all(path.is_dir() for path in files)
    monkeypatch.setattr(module, "load", None)  # nothing is left to do: no model is loaded
    assert generate(config, QUIET) == files


def test_one_more_format_of_the_same_video_is_added(config: GenerateConfig) -> None:
    config = replace(config, prompt="a parrot")
    generate(config, QUIET)
    more = replace(config, formats=["png", "webp"])
    assert list(missing_files(plan(more)[0], more, settings(more))) == ["webp"]


def test_other_settings_do_not_pass_for_the_same_video(config: GenerateConfig) -> None:
    config = replace(config, prompt="a parrot")
    (folder,) = generate(config, QUIET)
    with pytest.raises(OutputError, match="made otherwise: num_inference_steps was 2, now 3"):
        generate(replace(config, num_inference_steps=3), QUIET)
    before = alpha_of(folder)
    generate(replace(config, num_inference_steps=3, overwrite=True), QUIET)
    assert not np.array_equal(alpha_of(folder), before)
    (folder.parent / "a-parrot-s0.json").unlink()
    with pytest.raises(OutputError, match="nothing says how it was made"):
        generate(config, QUIET)


def test_files_that_were_made_otherwise_go_when_one_of_them_is_overwritten(config: GenerateConfig) -> None:
    """Else the new record would vouch for the old picture."""
    both = replace(config, prompt="a parrot", formats=["png", "webp"])
    _, old = generate(both, QUIET)
    generate(replace(both, formats=["png"], overwrite=True), QUIET)
    assert old.exists()  # the same video still
    other = replace(both, num_inference_steps=3)
    generate(replace(other, formats=["png"], overwrite=True), QUIET)
    assert not old.exists()
    with pytest.raises(OutputError, match="made otherwise: num_inference_steps was 3, now 2"):
        generate(replace(both, formats=["webp"]), QUIET)
    # A file that nothing speaks of is neither removed nor adopted.
    old.with_suffix(".mov").write_bytes(b"mine")
    old.with_suffix(".json").unlink()
    with pytest.raises(OutputError, match=r"\.mov exists, and nothing says how it was made"):
        generate(replace(other, formats=["png"], overwrite=True), QUIET)
    assert old.with_suffix(".mov").read_bytes() == b"mine"


def test_adapters_are_compared_by_what_is_in_them(config: GenerateConfig, tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    shutil.copytree(str(config.adapters), here)
    config = replace(config, prompt="a parrot", adapters=str(here))
    (folder,) = generate(config, QUIET)
    before = folder.stat().st_ino
    here.rename(there)
    assert generate(replace(config, adapters=str(there)), QUIET) == [folder]
    assert folder.stat().st_ino == before  # moved: the same command goes on
    weights = read_weights(there / "t2v.safetensors")
    write_weights(there / "t2v.safetensors", {key: 1.01 * tensor for key, tensor in weights.items()})
    with pytest.raises(OutputError, match="made otherwise: dit_sha256 was"):
        generate(replace(config, adapters=str(there)), QUIET)


def test_another_background_counts_for_mp4_alone(config: GenerateConfig) -> None:
    config = replace(config, prompt="a parrot", formats=["mp4", "png"], background="#ff0000")
    generate(config, QUIET)
    generate(replace(config, formats=["png", "webp"], background="#00ff00"), QUIET)
    generate(config, QUIET)
    with pytest.raises(OutputError, match="background was '#ff0000', now '#00ff00'"):
        generate(replace(config, background="#00ff00"), QUIET)


def test_one_bar_counts_the_steps_of_all_batches(config: GenerateConfig) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    generate(replace(config, prompt="a parrot", seed=[0, 1]), console)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert re.search(r"a parrot.*4/4.*steps", shown)
    assert "a-parrot-s1-png" in shown


def test_a_prompt_beside_the_bar_is_no_markup(config: GenerateConfig) -> None:
    screen = Console(file=io.StringIO(), force_terminal=True, width=120)
    generate(replace(config, prompt="a sign that\nsays [/b] [red]"), screen)
    assert "a sign that says [/b] [red]" in screen.file.getvalue()  # type: ignore[attr-defined]


def test_edges_are_cleaned_and_may_be_left_alone(config: GenerateConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[float, int]] = []
    original = Video.cleaned
    monkeypatch.setattr(Video, "cleaned", lambda self, *args: seen.append(args) or original(self, *args))
    generate(replace(config, prompt="a"), QUIET)
    config.edges.threshold, config.edges.bleed = 0.0, 0
    generate(replace(config, prompt="b"), QUIET)
    assert seen == [(0.02, 8)]


def test_image_and_task_belong_together(config: GenerateConfig) -> None:
    for change in ({"task": "i2v"}, {"image": "x.png"}):
        with pytest.raises(ImageError, match="belong together"):
            generate(replace(config, prompt="a", **change), QUIET)


def test_what_cannot_be_is_refused_before_a_model_is_loaded(
    config: GenerateConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "load", None)
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    i2v = {"task": "i2v", "image": str(broken)}
    cases: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"height": 40}, SizeError, "40 x 32; this base takes multiples of 16"),
        ({"formats": ["mp4"], "background": "nowhere.mov"}, BackgroundError, "no file, no colour"),
        ({"formats": ["mp4"], "background": str(broken)}, BackgroundError, "cannot be read as a picture"),
        (i2v, ImageError, "makes videos from text only"),
        ({"adapters": str(tmp_path)}, AdapterError, "holds neither"),
        ({"distill": str(tmp_path / "absent.safetensors")}, AdapterError, "absent.safetensors cannot be read"),
    ]
    for change, error, message in cases:
        with pytest.raises(error, match=message):
            generate(replace(config, prompt="a", **change), QUIET)
    assert generate_size(config, tmp_path) == (121, 704, 1280)


def generate_size(config: GenerateConfig, tmp_path: Path) -> tuple[int | None, ...]:
    """What is made of a Wan2.2 base in a folder of any name, where no size is given."""
    configs = {"vae": WAN22_VAE, "transformer": WAN22_5B, "text_encoder": {}, "tokenizer": {}, "scheduler": {}}
    for part, content in configs.items():
        (tmp_path / "mine" / part).mkdir(parents=True)
        (tmp_path / "mine" / part / "config.json").write_text(json.dumps(content))
    base = replace(config.base, path=str(tmp_path / "mine"))
    found = module.checked(replace(config, base=base, num_frames=None, height=None, width=None))
    return found.num_frames, found.height, found.width
