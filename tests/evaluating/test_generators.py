"""task=generation: systems in every form, the same figures for the same content, and bad input of every kind."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from data.rgba_media import animated, encode, prores, vp9, write_frames
from evaluating.test_evaluate_config import compose
from evaluation.clips import blurred, disc, flickering, to_frames

from wan_alpha.command import validated
from wan_alpha.data.media import write_ffv1
from wan_alpha.evaluating.config import EvaluateConfig
from wan_alpha.evaluating.run import evaluate
from wan_alpha.evaluation.networks import CLIP_MEAN, CLIP_STD, ClipScore, VideoFeatures
from wan_alpha.evaluation.prompts import Prompt
from wan_alpha.evaluation.vbench import VBenchError
from wan_alpha.evaluation.videos import VideoError, common_shape, open_system, read

PROMPTS = [
    {"id": "001", "text": "a disc", "category": "solid", "expects": "opaque"},
    {"id": "002", "text": "a soft disc", "category": "soft", "expects": "edges"},
]


def frames(variant: int = 0, length: int = 6, side: int = 48) -> np.ndarray:
    colours, alpha = disc(frames=length, side=side, radius=12, soft=1 + 2 * variant, speed=1)
    return to_frames(colours, alpha)


def write_system(folder: Path, *videos: np.ndarray) -> Path:
    folder.mkdir(parents=True)
    for number, video in enumerate(videos, 1):
        write_ffv1(video, 12, folder / f"{number:03d}.mkv")
    return folder


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    file = tmp_path / "prompts.json"
    file.write_text(json.dumps(PROMPTS))
    return file


def run(prompts: Path, out: Path, *overrides: str) -> dict:
    small = ["task=generation", f"prompts={prompts}", f"out={out}", "report.players=false", "report.ab=false"]
    evaluate(*validated(compose(*small, *overrides), EvaluateConfig))
    return json.loads((out / "summary.json").read_text())


def test_two_systems_are_measured_and_the_better_one_wins(tmp_path: Path, prompts: Path) -> None:
    good = write_system(tmp_path / "good", frames(0), frames(1))
    colours, alpha = disc(frames=6, side=48, radius=12, speed=1)
    noise = 0.04 * np.random.default_rng(0).random(alpha.shape)
    spoiled = to_frames(colours, np.maximum(flickering(blurred(alpha, 2), 0.3), noise))
    bad = write_system(tmp_path / "bad", spoiled, spoiled)
    summary = run(prompts, tmp_path / "out", f"videos.good={good}", f"videos.bad={bad}")
    good_row, bad_row = summary["systems"]["good"], summary["systems"]["bad"]
    assert summary["clips"] == ["001", "002"]
    assert good_row["background_leak"]["mean"] < bad_row["background_leak"]["mean"]
    assert good_row["alpha_flicker"]["mean"] < bad_row["alpha_flicker"]["mean"]
    assert good_row["edge_width"]["mean"] < bad_row["edge_width"]["mean"]
    assert good_row["temporal_flickering"]["mean"] > bad_row["temporal_flickering"]["mean"]
    assert good_row["translucency_error"]["mean"] < bad_row["translucency_error"]["mean"]
    assert set(summary["categories"]) == {"solid", "soft"}
    assert "**" in (tmp_path / "out" / "table.md").read_text()
    assert not summary["failures"]


def test_the_same_content_in_every_form_has_the_same_figures(tmp_path: Path) -> None:
    video = frames(1, side=64)
    asked = [Prompt("001", "a soft disc")]
    forms = {
        "prores": lambda d: (d / "001.mov").write_bytes(prores(video)),
        "webm": lambda d: (d / "001_seed7.webm").write_bytes(vp9(video)),
        "apng": lambda d: (d / "001.png").write_bytes(animated(video, "PNG")),
        "webp": lambda d: (d / "001.webp").write_bytes(animated(video, "WEBP")),
        "folder": lambda d: write_frames(video, d / "001"),
        "pair": lambda d: (write_frames(video, d / "fgr" / "001", "RGB"), write_frames(video, d / "pha" / "001", "L")),
        "inner pair": lambda d: (
            write_frames(video, d / "001" / "fgr", "RGB"), write_frames(video, d / "001" / "pha", "L")),
        "suffixes": lambda d: [
            (d / f"001_{half}.mp4").write_bytes(encode(picture, "libx264", "yuv444p", "mp4", crf="1"))
            for half, picture in (("rgb", video), ("alpha", np.repeat(video[..., 3:], 4, axis=-1)))],
        "by caption": lambda d: (
            write_ffv1(video, 12, d / "take3.mkv"),
            (d / "captions.csv").write_text("key,caption\ntake3,a soft disc\n")),
    }  # fmt: skip
    for form, write in forms.items():
        folder = tmp_path / form
        folder.mkdir()
        write(folder)
        system = open_system(form, folder, asked)
        assert list(system.videos) == ["001"], form
        assert system.videos["001"].has_alpha, form
        assert np.abs(read(system.videos["001"])[0].astype(int) - video)[..., 3].max() <= 8, form


def test_composites_have_no_figures_of_alpha(tmp_path: Path, prompts: Path) -> None:
    ours = write_system(tmp_path / "ours", frames(), frames(1))
    (tmp_path / "theirs").mkdir()
    for name in ("001", "002"):
        (tmp_path / "theirs" / f"{name}.mp4").write_bytes(encode(frames(), "libx264", "yuv420p", "mp4"))
    summary = run(prompts, tmp_path / "out", f"videos.ours={ours}", f"videos.theirs={tmp_path / 'theirs'}",
                  "align.how=resample")  # fmt: skip
    assert set(summary["systems"]["theirs"]) == {"temporal_flickering", "motion_smoothness"}
    assert any(f.startswith("theirs: no alpha in 2 videos") for f in summary["failures"])
    assert "| – |" in (tmp_path / "out" / "table.md").read_text()


def test_a_folder_with_alpha_in_some_videos_is_compared_on_those_alone(tmp_path: Path, prompts: Path) -> None:
    ours = write_system(tmp_path / "ours", frames(0), frames(2))
    theirs = write_system(tmp_path / "theirs", frames(0))
    (theirs / "002.mp4").write_bytes(encode(frames(2), "libx264", "yuv444p", "mp4"))
    summary = run(prompts, tmp_path / "out", f"videos.ours={ours}", f"videos.theirs={theirs}", "align.how=native")
    rows = summary["systems"]
    assert rows["ours"]["temporal_flickering"]["count"] == 2
    assert rows["ours"]["edge_width"] == rows["theirs"]["edge_width"]  # the same clip
    assert rows["ours"]["edge_width"]["count"] == 1
    note = next(f for f in summary["failures"] if f.startswith("only 1 of 2 clips count for "))
    assert "alpha edge width, px" in note
    assert "temporal flickering" not in note


def test_videos_that_differ_are_refused_or_resampled_on_request(tmp_path: Path, prompts: Path) -> None:
    a = write_system(tmp_path / "a", frames(), frames())
    b = tmp_path / "b"
    b.mkdir()
    for name in ("001", "002"):
        write_ffv1(frames(length=13, side=96), 24, b / f"{name}.mkv")
    both = [f"videos.a={a}", f"videos.b={b}"]
    with pytest.raises(VideoError, match=r"48x48, 6 frames at 12 fps: a/001, a/002\n  96x96, 13 frames at 24 fps: b/"):
        run(prompts, tmp_path / "out", *both)
    summary = run(prompts, tmp_path / "out1", *both, "align.how=resample")
    assert summary["facts"]["shape"] == {"height": 48, "width": 48, "fps": 12, "num_frames": 6}
    assert run(prompts, tmp_path / "out2", *both, "align.how=native")["facts"]["shape"] is None
    asked = [Prompt("001", "-")]
    systems = [open_system("a", a, asked), open_system("b", b, asked)]
    shape = common_shape(systems, ["001"], "resample", [32, 48], 6, 3)
    long, _ = read(systems[1].videos["001"], shape)
    assert long.shape == (3, 32, 48, 4)
    with pytest.raises(VideoError, match=r"align.num_frames=5 at 6 fps last longer than the shortest video, 0.5 s"):
        common_shape(systems, ["001"], "resample", fps=6, num_frames=5)
    with pytest.raises(VideoError, match=r"align.size, .* are for align.how=resample, not for refuse"):
        common_shape(systems, ["001"], "refuse", [32, 48])
    # at 6 of 24 fps, every fourth frame
    whole, _ = read(systems[1].videos["001"])
    assert np.abs(long[1].astype(int).mean((0, 1)) - whole[4, 16:80].mean((0, 1)))[3] < 2


def test_missing_clips_are_listed_and_only_common_ones_count(tmp_path: Path, prompts: Path) -> None:
    a = write_system(tmp_path / "a", frames(), frames(1))
    b = write_system(tmp_path / "b", frames())
    write_ffv1(frames(), 12, b / "other.mkv")
    write_ffv1(frames(1), 12, b / "001_seed2.mkv")
    summary = run(prompts, tmp_path / "out", f"videos.a={a}", f"videos.b={b}")
    assert summary["clips"] == ["001"]
    assert summary["left_out"] == {"a": ["002"]}
    assert summary["systems"]["a"] == summary["systems"]["b"]
    assert "b: no video for 1 of 2 prompts: 002" in summary["failures"]
    assert "b: videos that answer no prompt: other" in summary["failures"]
    assert any(f.endswith("001_seed2.mkv: a second video for prompt 001; the first one is measured")
               for f in summary["failures"])  # fmt: skip


def test_what_generate_leaves_is_found_whatever_its_formats(tmp_path: Path) -> None:
    """Beside `formats=[webm,mp4]` lies a composite; frames are in folders of another name than their record."""
    a, asked = tmp_path / "a", [Prompt("001", "a disc"), Prompt("002", "a soft disc")]
    a.mkdir()
    (a / "a-disc-s0.mp4").write_bytes(encode(frames(), "libx264", "yuv420p", "mp4"))
    (a / "a-disc-s0.webm").write_bytes(vp9(frames()))
    write_frames(frames(1), a / "a-soft-disc-s0-png")
    for name, text in (("a-disc-s0", "a disc"), ("a-soft-disc-s0", "a soft disc")):
        (a / f"{name}.json").write_text(json.dumps({"prompt": text}))
    system = open_system("a", a, asked)
    assert {name: (video.path.name, video.has_alpha) for name, video in system.videos.items()} == {
        "001": ("a-disc-s0.webm", True),
        "002": ("a-soft-disc-s0-png", True),
    }
    assert not system.problems
    (a / "a-soft-disc-s0-png" / "video.json").write_text('{"fps": 16.0}')
    assert open_system("a", a, asked).videos["002"].info.fps == 16


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_pictures_that_stay_are_unrolled(tmp_path: Path, kind: str) -> None:
    """Both formats store equal frames in a row as one that lasts longer."""
    video = frames(1, length=12)[[0, 0, 1, 2, 2, 2, 2, 3, 4, 5, 6, 7]]
    (tmp_path / f"001.{kind.lower()}").write_bytes(animated(video, kind))
    found = open_system("a", tmp_path, [Prompt("001", "a disc")]).videos["001"]
    assert (found.info.num_frames, found.info.fps) == (12, {"PNG": 25, "WEBP": 24}[kind])
    assert np.array_equal(read(found)[0][..., 3], video[..., 3])


def test_equal_prompts_are_told_apart_by_their_ids(tmp_path: Path) -> None:
    """`generate.py` leaves the text of the prompt beside each video."""
    a = write_system(tmp_path / "a", frames(), frames(1))
    for name in ("001", "002"):
        (a / f"{name}.json").write_text('{"prompt": "a disc"}')
    system = open_system("a", a, [Prompt("001", "a disc"), Prompt("002", "a disc")])
    assert {name: video.path.stem for name, video in system.videos.items()} == {"001": "001", "002": "002"}


def test_what_is_asked_for_later_is_made_without_measuring_again(tmp_path: Path, prompts: Path) -> None:
    a, out, folder = write_system(tmp_path / "a", frames(), frames(1)), tmp_path / "out", tmp_path / "vbench"
    first = run(prompts, out, f"videos.a={a}")
    lines = (out / "scores.jsonl").read_text()
    for more in (["report.players=true", "report.height=48"], ["report.players=true", "report.height=96"]):
        assert run(prompts, out, f"videos.a={a}", *more)["systems"] == first["systems"]
    assert json.loads((out / "players" / "002.json").read_text())["height"] == 96
    run(prompts, out, f"videos.a={a}", f"vbench={folder}")
    assert sorted(f.name for f in (folder / "a" / "videos").iterdir()) == ["001.mp4", "002.mp4"]
    assert (out / "scores.jsonl").read_text() == lines
    b = write_system(tmp_path / "b", frames(1), frames())
    with pytest.raises(VBenchError, match="holds other videos, and their results"):
        run(prompts, tmp_path / "other", f"videos.a={b}", f"vbench={folder}")


def test_empty_folders_and_folders_that_answer_nothing_are_refused(tmp_path: Path, prompts: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        VideoError, match="no video for any of 2 prompts; expected names such as 001, 002; the folder is"
    ):
        run(prompts, tmp_path / "out", f"videos.a={tmp_path / 'empty'}")
    with pytest.raises(VideoError, match="found nothing there"):
        run(prompts, tmp_path / "out", "videos.a=nowhere")
    stray = tmp_path / "stray"
    stray.mkdir()
    write_ffv1(frames(), 12, stray / "cat.mkv")
    with pytest.raises(VideoError, match="cat: answers no prompt"):
        run(prompts, tmp_path / "out", f"videos.a={stray}")
    a, b = write_system(tmp_path / "a", frames()), tmp_path / "b"
    b.mkdir()
    write_ffv1(frames(), 12, b / "002.mkv")
    with pytest.raises(VideoError, match="no prompt is answered by every system"):
        run(prompts, tmp_path / "out", f"videos.a={a}", f"videos.b={b}")
    with pytest.raises(VideoError, match=r"give videos\.NAME=DIR"):
        run(prompts, tmp_path / "out")


def test_premultiplied_colour_is_named_and_can_be_mended(tmp_path: Path, prompts: Path) -> None:
    colours, alpha = disc(frames=4, side=64, soft=16, radius=20, speed=1)
    straight = write_system(tmp_path / "straight", *[to_frames(colours, alpha)] * 2)
    dark = write_system(tmp_path / "dark", *[to_frames(colours * alpha[..., None], alpha)] * 2)
    both = [f"videos.straight={straight}", f"videos.dark={dark}"]
    summary = run(prompts, tmp_path / "out", *both)
    assert any(f.startswith("dark: colours look premultiplied") for f in summary["failures"])
    assert not any(f.startswith("straight") for f in summary["failures"])
    fvd = [f"networks.fvd={means(tmp_path)}", f"networks.reference={straight}"]
    mended = run(prompts, tmp_path / "out2", *both, "align.premultiplied=convert", "report.ab=true", *fvd)
    assert "dark: colours looked premultiplied and were divided by alpha: 001, 002" in mended["failures"]
    assert mended["systems"]["dark"]["fvd"]["mean"] < 0.1  # every figure sees the divided colours ...
    assert run(prompts, tmp_path / "out3", *both, *fvd)["systems"]["dark"]["fvd"]["mean"] > 10
    key = json.loads((tmp_path / "out2" / "ab_key.json").read_text())
    run(prompts, tmp_path / "out4", *both, "report.ab=true")
    assert json.loads((tmp_path / "out4" / "ab_key.json").read_text())["study"] != key["study"]  # ... and the A/B page


def test_a_figure_that_is_not_a_number_is_shown_and_has_no_mean(tmp_path: Path, prompts: Path) -> None:
    empty = np.zeros((6, 48, 48, 4), np.uint8)
    a = write_system(tmp_path / "a", frames(), empty)
    summary = run(prompts, tmp_path / "out", f"videos.a={a}")
    assert summary["systems"]["a"]["edge_width"] == {"mean": None, "low": None, "high": None, "count": 2, "failed": 1}
    assert summary["systems"]["a"]["alpha_floor"]["mean"] == 0
    assert any(f.startswith("a: nothing is visible") and f.endswith(": 002") for f in summary["failures"])
    assert any("alpha edge width, px is not a number on 1 of 2 clips (002)" in f for f in summary["failures"])
    assert "NaN (1/2)" in (tmp_path / "out" / "table.md").read_text()


def test_a_video_that_breaks_while_it_is_read_is_left_out_by_name(tmp_path: Path, prompts: Path) -> None:
    a = write_system(tmp_path / "a", frames(), frames(1))
    (a / "002.mkv").unlink()
    folder = write_frames(frames(1), a / "002")
    (folder / "3.png").write_bytes((folder / "3.png").read_bytes()[:100])
    summary = run(prompts, tmp_path / "out", f"videos.a={a}", "align.how=native")
    assert summary["clips"] == ["001"]
    assert any("002/3.png: cannot be read as a picture" in f for f in summary["failures"])


def means(folder: Path) -> Path:
    """A network for FVD: the mean colour."""

    class Means(torch.nn.Module):
        def forward(self, video: torch.Tensor) -> torch.Tensor:
            return video.to(torch.float32).mean((2, 3, 4))

    torch.jit.script(Means()).save(str(folder / "video.pt"))
    return folder / "video.pt"


def test_fvd_and_clip_score_with_networks_given_by_path(tmp_path: Path, prompts: Path) -> None:
    means(tmp_path)
    good = write_system(tmp_path / "good", frames(), frames(1))
    dim = write_system(tmp_path / "dim", frames() // 4, frames(1) // 4)
    reference = tmp_path / "reference"
    reference.mkdir()
    for number in range(3):
        write_ffv1(frames(number % 2), 12, reference / f"r{number}.mkv")
    networks = [f"networks.fvd={tmp_path / 'video.pt'}", f"networks.clip={tiny_clip(tmp_path / 'clip')}"]
    both = [f"videos.good={good}", f"videos.dim={dim}", *networks]
    with pytest.raises(VideoError, match=r"needs networks\.reference=DIR"):
        run(prompts, tmp_path / "out", *both)
    with pytest.raises(VideoError, match=r"networks.reference=.*nowhere: expected a folder of videos"):
        run(prompts, tmp_path / "none", *both, f"networks.reference={tmp_path / 'nowhere'}")
    assert not (tmp_path / "none" / "scores.jsonl").exists()  # said before anything is measured
    (reference / "captions.csv").write_text("key,caption\nr0,whatever it shows\n")
    summary = run(prompts, tmp_path / "out", *both, f"networks.reference={reference}")
    assert summary["facts"]["fvd"]["reference clips"] == 3
    assert summary["systems"]["good"]["fvd"]["mean"] < summary["systems"]["dim"]["fvd"]["mean"]
    assert summary["facts"]["fvd"]["network"].startswith("video.pt, sha256 ")
    assert 0 <= summary["systems"]["good"]["clip_score"]["mean"] <= 100


def test_the_clip_score_grows_as_a_picture_comes_closer_to_the_text(tmp_path: Path) -> None:
    score = ClipScore(str(tiny_clip(tmp_path / "clip")), torch.device("cpu"))
    tokens = score.tokenizer("a disc", return_tensors="pt")
    picture = torch.full((1, 3, 32, 32), 0.5, requires_grad=True)
    optimiser = torch.optim.Adam([picture], lr=0.05)
    mean, std = (torch.tensor(values)[:, None, None] for values in (CLIP_MEAN, CLIP_STD))
    for _ in range(20):
        output = score.model(pixel_values=(picture.clamp(0, 1) - mean) / std, **tokens)
        optimiser.zero_grad()
        (-torch.cosine_similarity(output.image_embeds, output.text_embeds)).sum().backward()
        optimiser.step()
    cosine = torch.cosine_similarity(output.image_embeds, output.text_embeds).item()
    found = (picture.detach().clamp(0, 1)[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)[None]
    grey = np.full_like(found, 128)
    assert score(found, "a disc") == pytest.approx(max(0, 100 * cosine), abs=2)
    assert score(found, "a disc") > score(grey, "a disc") + 1
    assert score(np.concatenate([found, grey]), "a disc") == pytest.approx(
        (score(found, "a disc") + score(grey, "a disc")) / 2, abs=1e-3
    )


def test_fvd_goes_on_where_it_was(tmp_path: Path, prompts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    means(tmp_path)
    a, reference = (write_system(tmp_path / name, frames(), frames(1)) for name in ("a", "reference"))
    command = [f"videos.a={a}", f"networks.fvd={tmp_path / 'video.pt'}", f"networks.reference={reference}"]
    seen: list[int] = []
    call = VideoFeatures.__call__

    def counted(self: VideoFeatures, video: np.ndarray) -> torch.Tensor:
        seen.append(len(video))
        if len(seen) == 4:
            raise KeyboardInterrupt
        return call(self, video)

    monkeypatch.setattr(VideoFeatures, "__call__", counted)
    with pytest.raises(KeyboardInterrupt):
        run(prompts, tmp_path / "out", *command)
    summary = run(prompts, tmp_path / "out", *command)
    assert len(seen) == 5  # three are kept of four videos
    assert summary["systems"]["a"]["fvd"]["mean"] == pytest.approx(0, abs=1e-3)
    run(prompts, tmp_path / "out", *command)
    assert len(seen) == 5
    write_ffv1(frames(2), 12, reference / "001.mkv")  # another reference is measured anew
    goes_on = run(prompts, tmp_path / "out", *command)["systems"]["a"]["fvd"]["mean"]
    assert len(seen) == 6
    assert goes_on > 1e-3
    assert goes_on == run(prompts, tmp_path / "whole", *command)["systems"]["a"]["fvd"]["mean"]
    assert len(seen) == 10

    class Darkest(torch.nn.Module):
        def forward(self, video: torch.Tensor) -> torch.Tensor:
            return 2 * video.to(torch.float32).amin((2, 3, 4)) + 1

    torch.jit.script(Darkest()).save(str(tmp_path / "video.pt"))  # another network in the same file sees all of them
    run(prompts, tmp_path / "out", *command)
    assert len(seen) == 14


def tiny_clip(folder: Path) -> Path:
    """A CLIP of random weights with a tokenizer of letters, in transformers' layout."""
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

    letters = [chr(c) for c in range(97, 123)]
    tokens = [*letters, *(f"{c}</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    folder.mkdir()
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt")).save_pretrained(folder)
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    config = CLIPConfig(
        text_config=small | {"vocab_size": len(vocabulary), "eos_token_id": len(vocabulary) - 1},
        vision_config=small | {"image_size": 32, "patch_size": 8}, projection_dim=8,
    )  # fmt: skip
    CLIPModel(config).save_pretrained(folder)
    return folder
