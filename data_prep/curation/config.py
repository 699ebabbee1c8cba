"""The schema of `conf/curate.yaml`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Le
from pydantic import Strict

from wan_alpha.schema import STRICT, Count, Natural, Positive, Share


@dataclass
class MeasureConfig:
    """How much of a clip is looked at, and how closely."""

    __pydantic_config__ = STRICT
    side: Count  # short side in pixels; larger clips are reduced to it
    frames: Count  # of long clips, so many are looked at
    group: Count  # consecutive frames, between which motion is measured


@dataclass
class Limits:
    """What is kept, both ends included; null: no limit."""

    __pydantic_config__ = STRICT
    min: float | None = None  # the least that is kept
    max: float | None = None  # the most that is kept


@dataclass
class Thresholds:
    """One pair of limits for each of `data_prep.measures.names.MEASURES`."""

    __pydantic_config__ = STRICT
    change: Limits
    flow: Limits
    coverage: Limits
    soft: Limits
    translucent: Limits
    glass: Limits
    edge_width: Limits
    glow: Limits
    brightness: Limits
    contrast: Limits
    greyness: Limits
    sharpness: Limits
    noise: Limits
    haze: Limits
    frames: Limits
    short_side: Limits


@dataclass
class DuplicatesConfig:
    """When two clips are near-duplicates: both distances have to be small."""

    __pydantic_config__ = STRICT
    hash_distance: Share | None  # share of differing bits of the perceptual hashes; null: do not look for duplicates
    look_distance: Share  # mean difference of tiny pictures
    straddle: Literal["drop_train", "move_train"]  # when one is held out and the other not


@dataclass
class LabelsConfig:
    """From where a measured label applies."""

    __pydantic_config__ = STRICT
    slow: Positive
    fast: Positive
    blurred: Share
    greyish: Share


@dataclass
class SheetConfig:
    """The contact sheet."""

    __pydantic_config__ = STRICT
    side: Count  # longer side of a thumbnail in pixels
    frames: Count  # of a thumbnail
    quality: Annotated[int, Strict(), Ge(1), Le(100)]  # of its WebP
    max_clips: Natural  # larger sets show all removed clips that fit, and some of the kept ones


@dataclass
class CurateConfig:
    """python -m data_prep.curate root=DIR"""

    __pydantic_config__ = STRICT
    root: str | list[str]
    out: str | None
    apply: bool
    val_share: Share
    workers: Natural
    engine: Literal["local", "ray"]
    ray: str | None
    measure: MeasureConfig
    thresholds: Thresholds
    duplicates: DuplicatesConfig
    labels: LabelsConfig
    sheet: SheetConfig
