"""The regression gate: what changed beyond noise is said, what did not is not, and other things are refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from evaluating.test_evaluate_config import compose

from wan_alpha.command import validated
from wan_alpha.evaluating.comparison import RegressionError
from wan_alpha.evaluating.config import EvaluateConfig
from wan_alpha.evaluating.record import RecordError
from wan_alpha.evaluating.run import evaluate
from wan_alpha.evaluation.compare import compare
from wan_alpha.evaluation.scores import Score, Scores, ScoresError


def scores(folder: Path | None, shift: float, noise_seed: int, clips: int = 20, **extra: float) -> Scores:
    """Clips that differ much from each other (5 dB) and little from run to run (0.2 dB)."""
    hard = np.random.default_rng(0).normal(30, 5, clips)
    noise = np.random.default_rng(noise_seed).normal(0, 0.2, clips)
    found = Scores(folder)
    for i in range(clips):
        figures = {"alpha/psnr": hard[i] + noise[i] + shift, "alpha/mad_e3": 10 - shift, "edge_width": 2.0 + shift}
        found.add(Score("ours", f"clip{i}", "all", figures | extra))
    return found


def test_a_small_change_on_every_clip_is_seen_though_clips_differ_far_more() -> None:
    changes = {c.name: c for c in compare(scores(None, 0, 1), scores(None, -0.5, 2))}
    psnr = changes["alpha/psnr"]
    assert psnr.verdict == "worse"
    assert psnr.low < psnr.after - psnr.before < psnr.high < 0
    assert changes["alpha/mad_e3"].verdict == "worse"  # higher, where lower is better
    assert changes["edge_width"].verdict == "differs"
    assert {c.verdict for c in compare(scores(None, -0.5, 1), scores(None, 0, 2)) if c.name != "edge_width"} == {
        "better"
    }


def test_noise_is_no_change() -> None:
    verdicts = [compare(scores(None, 0, a), scores(None, 0, a + 50))[0].verdict for a in range(12)]
    assert verdicts.count("no evidence") >= 10


def test_what_cannot_be_compared_is_not() -> None:
    few = compare(scores(None, 0, 1, clips=3), scores(None, 5, 2, clips=3))
    assert {c.verdict for c in few} == {"not comparable"}
    failed = {c.name: c.verdict for c in compare(scores(None, 0, 1, fvd=float("nan")), scores(None, 1, 2, fvd=1.0))}
    assert failed["fvd"] == "not comparable"
    other = Scores()
    other.add(Score("theirs", "x", "all", {"alpha/psnr": 1.0}))
    with pytest.raises(ScoresError, match="no system is in both: ours before, theirs after"):
        compare(scores(None, 0, 1), other)


def test_the_command_writes_what_it_found_and_fails_on_request(tmp_path: Path) -> None:
    scores(tmp_path / "a", 0, 1)
    scores(tmp_path / "b", -1, 2)
    for name, frames in (("a", 5), ("b", 9)):
        tree = {"config": {"data": {"num_frames": frames}, "adapters": name}, "facts": {}}
        (tmp_path / name / "config.json").write_text(json.dumps(tree))
    arguments = [f"compare={tmp_path / 'a'},{tmp_path / 'b'}", f"out={tmp_path / 'out'}"]
    evaluate(*validated(compose(*arguments), EvaluateConfig))
    page = (tmp_path / "out" / "comparison.md").read_text()
    assert "| ours | alpha PSNR |" in page
    assert "**worse**" in page
    assert "- config.data.num_frames: 5 -> 9" in page  # not the adapters, which are what is compared
    assert "adapters" not in page
    assert json.loads((tmp_path / "out" / "comparison.json").read_text())["changes"][0]["verdict"] == "worse"
    with pytest.raises(RegressionError, match=r"worse beyond noise: ours alpha/psnr, ours alpha/mad_e3"):
        evaluate(*validated(compose(*arguments, "fail_on_worse=true"), EvaluateConfig))
    with pytest.raises(RecordError, match=r"nowhere holds no scores\.jsonl"):
        evaluate(*validated(compose(f"compare={tmp_path / 'a'},nowhere", f"out={tmp_path / 'out'}"), EvaluateConfig))


def test_scores_survive_a_cut_off_line_and_refuse_nonsense(tmp_path: Path) -> None:
    kept = scores(tmp_path, 0, 1, clips=3)
    file = tmp_path / "scores.jsonl"
    text = file.read_text()
    file.write_text(text + text[:40])
    assert len(Scores(tmp_path)) == len(kept) == 3
    file.write_text("nonsense\n" + text)
    with pytest.raises(ScoresError, match=r"scores\.jsonl:1: not a score"):
        Scores(tmp_path)
