"""The Fluent emoji: names, concepts, splits."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from data_prep.sources.fluent import clips, concept_of, english_name, split_of
from wan_alpha.data.errors import DataError


@pytest.mark.parametrize(
    ("points", "name"),
    [
        ("1f99c", "parrot"),
        ("1f468-200d-1f692", "man firefighter"),
        ("1f578-fe0f", "spider web"),
        ("2744", "snowflake"),  # the packages leave the variation selector away now and then
        ("1f9d1-1f3fb-200d-1f680", "astronaut light skin tone"),
        ("41-42", "latin capital letter a latin capital letter b"),  # no emoji: Unicode's own names
    ],
)
def test_names_are_plain_words(points: str, name: str) -> None:
    assert english_name(points.split("-")) == name


@pytest.mark.parametrize(
    "variants",
    [
        ("1f468-200d-1f692", "1f469-200d-1f692", "1f9d1-200d-1f692", "1f469-1f3ff-200d-1f692"),
        ("1f3c3", "1f3c3-200d-2640-fe0f", "1f3c3-1f3fd-200d-2642-fe0f"),
    ],
)
def test_gender_and_skin_variants_share_a_concept(variants: tuple[str, ...]) -> None:
    assert len({concept_of(points.split("-")) for points in variants}) == 1
    assert concept_of(["1f99c"]) != concept_of(["1f525"])


def test_split_is_the_published_one() -> None:
    assert [split_of(concept) for concept in ("1f44b", "2764", "1f98b", "1fab3")] == ["val"] * 4
    assert [split_of(concept) for concept in ("1f99c", "1f525", "1f3a2", "1f943")] == ["train"] * 4


def test_packages_and_unpacked_trees_give_the_same(packages: Path, tmp_path: Path) -> None:
    packed = list(clips(packages))
    for package in packages.iterdir():
        with tarfile.open(package) as tar:
            for member in tar.getmembers():
                tar.extract(member, tmp_path / package.stem)
    assert sorted(packed, key=lambda clip: clip.key) == sorted(clips(tmp_path), key=lambda clip: clip.key)
    assert [clip.key for clip in packed] == [
        "1f99c-parrot",
        "1f3c3-200d-2642-fe0f-man-running",
        "1f3c3-200d-2640-fe0f-woman-running",
        "1f44b-waving-hand",
        "2764-fe0f-red-heart",
    ]
    assert {clip.licence for clip in packed} == {"MIT"}
    assert len(list(clips(packages, skin_tones=True))) == 6


def test_an_empty_root_says_what_to_fetch(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="npm pack @lobehub/fluent-emoji-anim-1"):
        list(clips(tmp_path))
