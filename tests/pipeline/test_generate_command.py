"""`generate.py` as people call it: names of files, prompts that are only text, whole commands."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from generate_calls import LOAD, QUIET, ROOT, alpha_of, composed
from PIL import Image
from small_world import random_dora, random_pipeline, random_vae_adapters

from wan_alpha.command import ConfigError
from wan_alpha.data.media import read_frames
from wan_alpha.interop.official_vae import export_vae
from wan_alpha.interop.weights import read_weights, write_weights
from wan_alpha.models.device import DeviceError
from wan_alpha.models.tiny_decoder import TinyDecoder
from wan_alpha.names import LONGEST, safe_name
from wan_alpha.pipeline import generate as module
from wan_alpha.pipeline.config import GenerateConfig
from wan_alpha.pipeline.generate import generate
from wan_alpha.pipeline.jobs import PromptError, plan, read_prompts
from wan_alpha.pipeline.pipeline import AlphaWanPipeline
from wan_alpha.pipeline.video import OutputError

pytestmark = pytest.mark.usefixtures("loaded")


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
        "é" * 300_000,
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
    ["fire, smoke {blue}", "a (b) = [c]", 'it\'s "quoted"', "${oc.env:HOME}", "back\\", "a: b # c", "100%", "null?",
     '"Stop" and "Go"', "\\${oc.env:HOME}", "a\\'b", "C:\\dir\\"],
)  # fmt: skip
def test_a_prompt_is_a_text_not_a_grammar(prompt: str) -> None:
    assert composed(f"prompt={prompt}").prompt == prompt


def test_quoted_and_empty_values_keep_their_meaning() -> None:
    assert composed('prompt="a, b"').prompt == "a, b"
    assert composed("prompt=null").prompt is None
    assert composed("seed=[1,2]", "formats=[mov,exr]").seed == [1, 2]
    with pytest.raises(ConfigError, match=r"^seed=18446744073709551616: input should be less than or equal to 9223"):
        composed(f"seed={2**64}")
    with pytest.raises(ConfigError, match=r"^fps=0.0001: input should be greater than or equal to 1"):
        composed("fps=0.0001")


def test_paths_may_hold_whatever_a_path_may() -> None:
    """Hydra's grammar knows no letters beyond ASCII, no brackets and no = in a value."""
    assert composed("adapters=läufe/lr=0.1,x (2)", "base.path=a=b").adapters == "läufe/lr=0.1,x (2)"
    assert composed("adapters=[a=1, b ü]", "out=Ö (1)").adapters == ["a=1", "b ü"]
    assert composed("adapters=['a,b',c]").adapters == ["a,b", "c"]
    assert composed("adapters=null").adapters is None


def test_prompt_lists_that_cannot_be_read(config: GenerateConfig, tmp_path: Path) -> None:
    cases = {"absent.txt": (None, "cannot be read"), "empty.txt": ("\n\n", "no prompts in it"),
             "broken.json": ("{", "cannot be read"), "numbers.json": ("[1]", "expected texts, found 1"),
             "text.json": ('"a"', "expected a list of prompts"),
             "path.json": ('{"../x": "a"}', "cannot be a file name"),
             "device.json": ('{"con": "a"}', "cannot be a file name"),
             "stream.json": ('{"a:b": "a"}', "cannot be a file name")}  # fmt: skip
    for name, (content, message) in cases.items():
        if content is not None:
            (tmp_path / name).write_text(content)
        with pytest.raises(PromptError, match=message):
            read_prompts(str(tmp_path / name))
    (tmp_path / "odd.json").write_text('{"hair_01 (v1.2)": "a"}')
    assert [job.name for job in plan(replace(config, prompts=str(tmp_path / "odd.json")))] == ["hair_01 (v1.2)"]
    for prompt, message in ((None, "no prompt"), ("", "the prompt is empty"), (" \n", "the prompt is empty")):
        with pytest.raises(PromptError, match=message):
            plan(replace(config, prompt=prompt))


def test_bytes_that_are_no_text_are_refused_in_a_sentence(config: GenerateConfig, tmp_path: Path) -> None:
    """A shell passes on any bytes; Python reads those that are no UTF-8 as lone surrogates."""
    bad = os.fsdecode(b"a \xff parrot")
    (tmp_path / "list.json").write_text('{"one": "a \\ud800 parrot"}')
    changes: list[dict[str, Any]] = [{"prompts": str(tmp_path / "list.json")}, {"prompt": bad}]
    changes += [
        {"prompt": "a", key: value} for key, value in (("negative_prompt", bad), ("out", bad), ("adapters", [bad]))
    ]
    for change in changes:
        with pytest.raises(PromptError, match="holds bytes that are no text"):
            generate(replace(config, **change), QUIET)
    assert composed(f"prompt={bad}").prompt == bad
    assert len(safe_name(bad)) < LONGEST


def command(config: GenerateConfig, *arguments: str) -> list[str]:
    return [
        sys.executable, str(ROOT / "generate.py"), "base=path", "base.name=small", f"base.path={config.base.path}",
        f"adapters={config.adapters}", f"out={config.out}", "num_frames=6", "height=32", "width=32", *arguments,
    ]  # fmt: skip


def authors_release(base: Path, adapters: Path, out: Path) -> tuple[Path, Path, Path]:
    """Small files of the form and under the names of the authors' release: RGBA VAE, DoRA, and LightX2V's LoRA."""
    vae, dit, distill = out / "Wan-Alpha-VAE.bin", out / "t2v.safetensors", out / "lightx2v.safetensors"
    write_weights(vae, export_vae(base, adapters))
    dora = read_weights(random_dora(base, dit))
    write_weights(dit, {re.sub(r"\.(?=weight$)", ".default.", key): tensor for key, tensor in dora.items()})
    lora = read_weights(random_dora(base, distill, 2, "diffusion_model.", magnitude=False, seed=9))
    lightx2v = {key.replace("lora_A", "lora_down").replace("lora_B", "lora_up"): t for key, t in lora.items()}
    biases = {k.replace("lora_B.weight", "diff_b"): 0.1 * t[:, 0].clone() for k, t in lora.items() if "lora_B" in k}
    write_weights(distill, lightx2v | biases)
    return vae, dit, distill


def test_the_authors_release_from_the_documented_command_to_files(
    config: GenerateConfig, small_base: Path, small_adapters: Path, tmp_path: Path
) -> None:
    vae, dit, distill = authors_release(small_base, small_adapters, tmp_path)
    documented = re.search(
        r"python generate\.py base=\S+ (adapters=\S+ distill=\S+) \\\n\s+(prompt=\"a parrot flying\") (formats=\S+)\n",
        (ROOT / "docs" / "generate.md").read_text(encoding="utf-8"),
    )
    assert documented is not None
    arguments = [*documented[1].split(), documented[2].replace('"', ""), documented[3].replace("]", ",mkv]")]
    done = subprocess.run(command(config, *arguments), cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "num_frames=6 is not 1 + 4k; making 5 frames" in done.stdout + done.stderr
    files = sorted(p.name for p in Path(config.out).iterdir())
    assert files == [f"a-parrot-flying-s0{suffix}" for suffix in (".json", ".mkv", ".mov", ".webm")]
    made = json.loads((Path(config.out) / files[0]).read_text())["made_with"]
    assert (made["steps"], made["guidance_scale"]) == (4, 1.0)
    assert [made[part] for part in ("vae", "dit", "distill")] == [vae.name, dit.name, distill.name]
    pipe = AlphaWanPipeline.from_pretrained(small_base, [vae, dit], distill=distill)
    pipe.set_progress_bar_config(disable=True)
    expected = pipe("a parrot flying", num_frames=5, height=32, width=32).cleaned().pixels()
    found = read_frames(Path(config.out) / files[1], count=5) / 255
    assert np.abs(found - expected).max() < 1.5 / 255


def test_a_mistyped_key_is_named_with_the_nearest(config: GenerateConfig, tmp_path: Path) -> None:
    wrong = subprocess.run(command(config, "promt=x"), cwd=tmp_path, capture_output=True, text=True, check=False)
    assert wrong.returncode == 1
    assert "promt: no such key, on the command line. Did you mean prompt?" in wrong.stderr
    assert not (tmp_path / "outputs").exists()


def test_image_to_video_from_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The video begins with the picture that is given, and its record knows which that was."""
    monkeypatch.setattr(module, "load", LOAD)
    base = random_pipeline(tmp_path / "i2v", in_channels=12)
    random_vae_adapters(base, tmp_path / "adapters")
    random_dora(base, tmp_path / "adapters" / "t2v.safetensors")
    out = []
    for name, colour in (("red", (255, 0, 0, 255)), ("clear", (255, 0, 0, 0))):
        Image.new("RGBA", (60, 40), colour).save(tmp_path / f"{name}.png")
        config = composed(
            "task=i2v", f"image={tmp_path}/{name}.png", "prompt=a parrot", "base=path", "base.name=i2v",
            f"base.path={base}", f"adapters={tmp_path}/adapters", f"out={tmp_path}/{name}", "formats=[png,webp]",
            "num_frames=5", "height=32", "width=48", "num_inference_steps=2", "guidance_scale=1",
        )  # fmt: skip
        folder, webp = generate(config, QUIET)
        assert webp.stat().st_size > 100
        out.append((alpha_of(folder), json.loads(webp.with_suffix(".json").read_text())["image_sha256"]))
    assert out[0][0].shape == (32, 48, 4)
    assert not np.array_equal(out[0][0], out[1][0])
    assert out[0][1] != out[1][1]


def test_the_readmes_command_makes_files_of_the_shipped_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In two steps instead of fifty."""
    monkeypatch.setattr(module, "load", LOAD)
    (line,) = re.findall(r"^ +python generate\.py (.*)$", (ROOT / "README.md").read_text(encoding="utf-8"), re.M)
    webm, mov = generate(composed(*shlex.split(line), f"out={tmp_path}", "num_inference_steps=2"), QUIET)
    assert (webm.suffix, mov.suffix) == (".webm", ".mov")
    frames = read_frames(mov, count=9)
    assert frames.shape == (9, 64, 64, 4)
    assert frames[..., 3].min() == 0


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
    with pytest.raises(OutputError, match="made otherwise: preview_sha256 was None, now"):
        generate(quick, QUIET)


def test_unwritable_out_and_absent_device_are_refused(config: GenerateConfig, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written to"):
        generate(replace(config, prompt="a", out=str(tmp_path / "file" / "out")), QUIET)
    for device in ("gpu", "cuda:99"):
        with pytest.raises(DeviceError, match=f"device={device}: "):
            generate(replace(config, prompt="a", device=device), QUIET)
