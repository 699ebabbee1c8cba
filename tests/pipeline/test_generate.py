"""`generate.py`: files that stay, prompts that are only text, a command that continues."""

from __future__ import annotations

import io
import json
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from PIL import Image
from rich.console import Console

from wan_alpha.command import validated
from wan_alpha.evaluation.prompts import load_prompts
from wan_alpha.interop.weights import write_weights
from wan_alpha.models.tiny_decoder import TinyDecoder
from wan_alpha.pipeline import generate as module
from wan_alpha.pipeline.arguments import plain_text
from wan_alpha.pipeline.config import GenerateConfig
from wan_alpha.pipeline.generate import generate
from wan_alpha.pipeline.image_to_video import ImageError
from wan_alpha.pipeline.jobs import PromptError, missing_files, plan, read_prompts
from wan_alpha.pipeline.names import LONGEST, safe_name
from wan_alpha.pipeline.pipeline import AlphaWanPipeline
from wan_alpha.pipeline.video import OutputError, Video

ROOT = Path(__file__).resolve().parents[2]
QUIET = Console(quiet=True)
LOAD = module.load


def composed(*arguments: str) -> GenerateConfig:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return validated(compose("generate", plain_text(arguments)), GenerateConfig)[0]


@pytest.fixture
def config(small_base: Path, small_adapters: Path, tmp_path: Path) -> GenerateConfig:
    return composed(
        "base=path", "base.name=small", f"base.path={small_base}", f"adapters={small_adapters}", f"out={tmp_path}/out",
        "formats=[png]", "num_frames=5", "height=32", "width=32", "num_inference_steps=2", "guidance_scale=1",
    )  # fmt: skip


@pytest.fixture(autouse=True)
def _loaded(pipe: AlphaWanPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading takes most of the time of these tests; the commands below load for themselves."""
    monkeypatch.setattr(module, "load", lambda config, console: pipe)


def alpha_of(folder: Path) -> np.ndarray:
    return np.asarray(Image.open(folder / "00002.png"))


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
    assert list(missing_files(plan(more)[0], more)) == ["webp"]


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


def test_one_bar_counts_the_steps_of_all_batches(config: GenerateConfig) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    generate(replace(config, prompt="a parrot", seed=[0, 1]), console)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert re.search(r"a parrot.*4/4.*steps", shown)
    assert "a-parrot-s1-png" in shown


def test_edges_are_cleaned_and_may_be_left_alone(config: GenerateConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[float, int]] = []
    original = Video.cleaned
    monkeypatch.setattr(Video, "cleaned", lambda self, *args: seen.append(args) or original(self, *args))
    generate(replace(config, prompt="a"), QUIET)
    config.edges.threshold, config.edges.bleed = 0.0, 0
    generate(replace(config, prompt="b"), QUIET)
    assert seen == [(0.02, 8)]


def test_image_and_task_belong_together(config: GenerateConfig, tmp_path: Path) -> None:
    for change in ({"task": "i2v"}, {"image": "x.png"}):
        with pytest.raises(ImageError, match="belong together"):
            generate(replace(config, prompt="a", **change), QUIET)
    Image.new("RGBA", (32, 32)).save(tmp_path / "x.png")
    with pytest.raises(ImageError, match="makes videos from text only"):
        generate(replace(config, prompt="a", task="i2v", image=str(tmp_path / "x.png")), QUIET)


# ----- names ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "prompt",
    [
        "../../etc/passwd",
        "/abs",
        "a\0b",
        "-rf *",
        "con",
        "..",
        "~",
        "a" * 500,
        "$(rm x)",
        "new\nline",
        "☃ ☂",
        "<b>",
        "a/b",
    ],
)
def test_hostile_prompts_are_only_names(prompt: str, tmp_path: Path) -> None:
    name = safe_name(prompt)
    assert name == Path(name).name
    assert not name.startswith((".", "-"))
    assert len(name.encode()) <= LONGEST + 7
    assert all(c.isalnum() or c == "-" for c in name)
    (tmp_path / f"{name}.webm").touch()
    assert [p.name for p in tmp_path.iterdir()] == [f"{name}.webm"]


def test_names_are_readable_and_tell_prompts_apart() -> None:
    assert safe_name("a parrot flying") == "a-parrot-flying"
    assert safe_name("一只鹦鹉") == "一只鹦鹉"
    alike = ["A parrot", "a parrot", "a  parrot", "a parrot!", "a-parrot?", "x" * 80, "x" * 81, "", "!", "?"]
    assert len({safe_name(prompt) for prompt in alike}) == len(alike)


# ----- the command line ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "prompt",
    ["fire, smoke {blue}", "a (b) = [c]", 'it\'s "quoted"', "${oc.env:HOME}", "back\\", "a: b # c", "100%", "null?"],
)
def test_a_prompt_is_a_text_not_a_grammar(prompt: str) -> None:
    assert composed(f"prompt={prompt}").prompt == prompt


def test_quoted_and_empty_values_keep_their_meaning() -> None:
    assert composed('prompt="a, b"').prompt == "a, b"
    assert composed("prompt=null").prompt is None
    assert composed("seed=[1,2]", "formats=[mov,exr]").seed == [1, 2]


def test_prompt_lists_that_cannot_be_read(config: GenerateConfig, tmp_path: Path) -> None:
    cases = {"absent.txt": (None, "cannot be read"), "empty.txt": ("\n\n", "no prompts in it"),
             "broken.json": ("{", "cannot be read"), "numbers.json": ("[1]", "expected texts, found 1"),
             "text.json": ('"a"', "expected a list of prompts"),
             "path.json": ('{"../x": "a"}', "cannot be a file name"),
             "device.json": ('{"con": "a"}', "use letters, digits and hyphens")}  # fmt: skip
    for name, (content, message) in cases.items():
        if content is not None:
            (tmp_path / name).write_text(content)
        with pytest.raises(PromptError, match=message):
            read_prompts(str(tmp_path / name))
    for prompt, message in ((None, "no prompt"), ("", "the prompt is empty"), (" \n", "the prompt is empty")):
        with pytest.raises(PromptError, match=message):
            plan(replace(config, prompt=prompt))


def command(config: GenerateConfig, *arguments: str) -> list[str]:
    return [
        sys.executable, str(ROOT / "generate.py"), "base=path", "base.name=small", f"base.path={config.base.path}",
        f"adapters={config.adapters}", f"out={config.out}", "num_frames=6", "height=32", "width=32", *arguments,
    ]  # fmt: skip


def test_command_from_prompt_to_files_and_errors_in_sentences(config: GenerateConfig, tmp_path: Path) -> None:
    arguments = ["prompt=a parrot, flying", "num_inference_steps=2", "formats=[webm,mov]"]
    done = subprocess.run(command(config, *arguments), cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "num_frames=6 is not 1 + 4k; making 5 frames" in done.stdout + done.stderr
    files = sorted(p.name for p in Path(config.out).iterdir())
    assert [Path(name).suffix for name in files] == [".json", ".mov", ".webm"]
    wrong = subprocess.run(command(config, "promt=x"), cwd=tmp_path, capture_output=True, text=True, check=False)
    assert wrong.returncode == 1
    assert "promt: no such key, on the command line. Did you mean prompt?" in wrong.stderr
    assert not (tmp_path / "outputs").exists()


def test_ctrl_c_leaves_complete_files_and_says_how_to_go_on(config: GenerateConfig, tmp_path: Path) -> None:
    arguments = ["prompt=a", "seed=[0,1,2,3,4,5,6,7]", "num_inference_steps=60", "formats=[mkv]"]
    process = subprocess.Popen(
        command(config, *arguments), cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore Ctrl-C
    )  # fmt: skip
    out = Path(config.out)
    deadline = time.monotonic() + 240
    while not list(out.glob("*.mkv")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted; finished files stay; the same command makes the others" in stderr
    finished = sorted(p.name for p in out.glob("*.mkv"))
    assert 1 <= len(finished) < 8
    assert not list(out.glob(".*"))


def test_a_preview_is_loaded_and_does_not_pass_for_the_video(config: GenerateConfig, tmp_path: Path) -> None:
    write_weights(tmp_path / "tiny.safetensors", TinyDecoder(4, (8, 6, 5, 4), channels=4).state_dict())
    quick = replace(config, prompt="a", preview=str(tmp_path / "tiny.safetensors"))
    assert LOAD(quick, QUIET).vae.preview is not None
    generate(replace(config, prompt="a"), QUIET)
    with pytest.raises(OutputError, match="made otherwise: preview was None, now"):
        generate(quick, QUIET)


def test_unwritable_out_and_absent_device_are_refused(config: GenerateConfig, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written to"):
        generate(replace(config, prompt="a", out=str(tmp_path / "file" / "out")), QUIET)
    if not module.torch.cuda.is_available():
        with pytest.raises(module.DeviceError, match="no CUDA device here"):
            LOAD(replace(config, prompt="a", device="cuda"), QUIET)
