"""What lies behind the review page, without a browser: who was shown what, and whose edit counts."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_prep.journal import Journal, entry
from data_prep.review.__main__ import is_local
from data_prep.review.desk import Desk
from data_prep.review.markup import heading, history
from data_prep.review.sprites import MAX_FRAMES, MAX_PIXELS, MAX_SIDE, layout, sprite
from wan_alpha.data.annotations import read_annotations
from wan_alpha.data.errors import DataError
from wan_alpha.data.media import write_ffv1
from wan_alpha.data.source import Clip


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three clips; frame t of each has green 20 t and alpha 255 - 10 t in its middle."""
    folder = tmp_path / "clips"
    folder.mkdir()
    frames = np.zeros((5, 20, 30, 4), np.uint8)
    for t in range(5):
        frames[t, 5:15, 5:25] = (255, 20 * t, 20 * t, 255 - 10 * t)
    for name in ("cup", "fire", "smoke"):
        write_ffv1(frames, 24.0, folder / f"{name}.mkv")
    (folder / "captions.json").write_text(json.dumps({"cup": "a cup", "fire": "a fire"}))
    return folder


def test_a_tab_writes_only_what_was_edited_in_it(root: Path) -> None:
    desk = Desk(root)
    one, two = desk.show("one", "cup"), desk.show("two", "cup")
    assert one["caption"] == "a cup"
    assert desk.save("one", "cup", "anna", one | {"short_en": "A cup."}).fields == ["short_en"]
    saved = desk.save("two", "cup", "ben", two | {"shot": "close"})  # still shows the old, empty short_en
    assert (saved.fields, saved.overwritten) == (["shot"], [])
    said = read_annotations(root)["cup"]
    assert (said.value("short_en"), said.value("shot"), said.entries["shot"].by) == ("A cup.", "close", "ben")
    assert desk.news("two", "cup", two | {"shot": "close"}) == {"short_en": "A cup."}
    assert desk.news("two", "cup", two | {"shot": "close", "short_en": "A cup."}) == {}
    assert desk.save("two", "cup", "ben", two | {"shot": "close", "short_en": "A cup."}).fields == []


def test_the_later_of_two_edits_counts_and_says_whose_it_replaced(root: Path) -> None:
    desk = Desk(root)
    for tab in ("one", "two"):
        desk.show(tab, "cup")
    desk.save("one", "cup", "anna", {"note": "good"})
    assert desk.news("two", "cup", {"note": "ba"}) == {}, "a field that is being edited must not change under the hand"
    saved = desk.save("two", "cup", "ben", {"note": "bad"})
    assert [(item.by, item.value) for item in saved.overwritten] == [("anna", "good")]
    assert [item.value for item in desk.journal.history("cup")] == ["bad", "good"]
    assert Desk(root).values("cup")["note"] == "bad"


def test_news_on_their_way_are_not_undone(root: Path) -> None:
    desk = Desk(root)
    one, two = desk.show("one", "cup"), desk.show("two", "cup")
    desk.save("one", "cup", "anna", one | {"short_en": "A cup."})
    assert desk.news("two", "cup", two) == {"short_en": "A cup."}
    # The news have not reached tab two yet, or its browser sleeps, when an edit of another field comes from there.
    assert desk.save("two", "cup", "ben", two | {"note": "n"}).fields == ["note"]
    assert desk.news("two", "cup", two | {"note": "n"}) == {"short_en": "A cup."}, "they are sent until they arrive"
    arrived = two | {"note": "n", "short_en": "A cup."}
    assert desk.news("two", "cup", arrived) == {}
    assert desk.save("two", "cup", "ben", arrived | {"short_en": ""}).fields == ["short_en"], "now it is an edit"
    # The same when a clip is shown again.
    desk.save("one", "cup", "anna", one | {"short_en": "A mug."})
    assert desk.show("two", "cup")["short_en"] == "A mug."
    assert desk.save("two", "cup", "ben", arrived | {"short_en": "", "note": "m"}).fields == ["note"]
    assert read_annotations(root)["cup"].value("short_en") == "A mug."


def test_a_verdict_is_meant_whatever_the_tab_showed(root: Path) -> None:
    desk = Desk(root)
    desk.show("one", "cup")
    desk.save("one", "cup", "anna", {"verdict": "accepted"})
    desk.save("two", "cup", "ben", {"verdict": "rejected"})
    assert desk.news("one", "cup", {"verdict": "accepted"}) == {"verdict": "rejected"}
    assert desk.news("one", "cup", {"verdict": "rejected"}) == {}
    assert desk.save("one", "cup", "anna", {"verdict": "accepted"}).fields == ["verdict"]
    assert read_annotations(root)["cup"].value("verdict") == "accepted"


def test_filters_search_and_counts(root: Path) -> None:
    desk = Desk(root)
    desk.save("t", "cup", "anna", {"verdict": "accepted", "long_zh": "一只杯子"})
    desk.save("t", "smoke", "anna", {"verdict": "rejected"})
    assert desk.keys("all clips", "") == ["cup", "fire", "smoke"], "rejected clips stay on the page"
    assert [desk.keys(name, "") for name in ("undecided", "accepted", "rejected")] == [["fire"], ["cup"], ["smoke"]]
    assert desk.keys("without caption", "") == ["fire", "smoke"]
    assert desk.keys("all clips", "杯子") == desk.keys("all clips", "A CUP") == ["cup"]
    assert desk.counts() == {"accepted": 1, "rejected": 1, "undecided": 1}


def test_what_is_not_in_the_vocabulary_is_not_written(root: Path) -> None:
    desk = Desk(root)
    for wrong in ({"shot": "sideways"}, {"verdict": "maybe"}, {"mood": "calm"}):
        with pytest.raises(DataError, match="expected one of"):
            desk.save("t", "cup", "anna", wrong)
    with pytest.raises(DataError, match="dog: no such clip"):
        desk.save("t", "dog", "anna", {"note": "x"})
    assert not read_annotations(root)


def test_a_sprite_holds_every_frame_without_loss(root: Path) -> None:
    desk = Desk(root)
    plan = layout(desk.clip("cup"))
    assert (plan.frames, plan.stride, plan.height, plan.width) == (5, 1, 20, 30)
    sheet = np.asarray(Image.open(io.BytesIO(sprite(desk.source, 0))))
    for t in range(5):
        top, left = t // plan.columns * 20, t % plan.columns * 30
        np.testing.assert_array_equal(sheet[top + 10, left + 15], (255, 20 * t, 20 * t, 255 - 10 * t))
    large = layout(Clip("k", 1000, 24.0, 2160, 3840, "", "train"))
    assert large.frames <= MAX_FRAMES
    assert max(large.height, large.width) <= MAX_SIDE
    assert large.frames * large.height * large.width <= MAX_PIXELS


def test_a_link_out_of_the_folder_is_not_served(root: Path) -> None:
    (root / "fire.mkv").rename(root.parent / "fire.mkv")
    (root / "fire.mkv").symlink_to(root.parent / "fire.mkv")
    with pytest.raises(DataError, match="fire: lies outside"):
        sprite(Desk(root).source, 1)


def test_what_data_says_is_no_markup(root: Path) -> None:
    Journal(root).append([entry("<b>x</b>", "person", "cup", "note", "<script>alert(1)</script>")])
    desk = Desk(root)
    clip = Clip("<i>", 1, 24.0, 2, 2, "", "train", {"licence": "<u>"})
    page = history(desk.journal.history("cup")) + heading(clip, desk.values("cup"), 1, 3)
    assert "<script>" not in page
    assert not any(tag in page for tag in ("<b>x", "<i>", "<u>"))


def test_which_addresses_are_this_machine_s_own() -> None:
    assert [is_local(host) for host in ("127.0.0.1", "localhost", "::1", "0.0.0.0", "example.org")] == [
        True, True, True, False, False,
    ]  # fmt: skip
