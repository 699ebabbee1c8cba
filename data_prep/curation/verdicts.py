"""Which clips are kept: thresholds first, then near-duplicates among those that pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Literal

from data_prep.curation.collect import Item, Seen
from data_prep.curation.config import DuplicatesConfig, Limits, Thresholds
from data_prep.curation.duplicates import Pair, near_duplicates
from data_prep.measures.names import MEASURES

Straddle = Literal["drop_train", "move_train"]
UNREADABLE = "cannot be read"


@dataclass(frozen=True)
class Verdict:
    """What is decided about one clip.

    Attributes:
        reasons: why it is removed; empty: it is kept.
        split: where it belongs from now on.
        duplicate_of: index of the clip that stays in its place; none if it is no duplicate.
        duplicate_kind: "within the set", "across sets" or "across the split"; empty if it is no duplicate.
    """

    reasons: tuple[str, ...] = ()
    split: str = "train"
    duplicate_of: int | None = None
    duplicate_kind: str = ""

    @property
    def keep(self) -> bool:
        """Whether the clip stays."""
        return not self.reasons


@dataclass(frozen=True)
class Rule:
    """One line of the table: what a rule removes by itself, and what it removes of those that the rules above left."""

    text: str
    alone: int
    more: int
    left: int


def violations(measures: dict[str, float | None], thresholds: Thresholds) -> list[str]:
    """Why a clip does not pass, in words such as "noise 3.2 > 1"; what was not measured removes nothing."""
    found = []
    for name, limits in active(thresholds):
        value = measures.get(name)
        if value is not None and limits.min is not None and value < limits.min:
            found.append(f"{name} {value:.4g} < {limits.min:g}")
        if value is not None and limits.max is not None and value > limits.max:
            found.append(f"{name} {value:.4g} > {limits.max:g}")
    return found


def active(thresholds: Thresholds) -> list[tuple[str, Limits]]:
    """The measures that have a limit, in the order of `MEASURES`."""
    limits = {item.name: getattr(thresholds, item.name) for item in fields(thresholds)}
    return [(name, limits[name]) for name in MEASURES if limits[name].min is not None or limits[name].max is not None]


def judge(
    items: Sequence[Item], seen: Sequence[Seen], thresholds: Thresholds, duplicates: DuplicatesConfig
) -> tuple[list[Verdict], list[Rule], list[Pair]]:
    """The verdicts in the order of the clips, the table of rules, and all near-duplicates there are."""
    first = []
    for item, found in zip(items, seen, strict=True):
        broken = (f"{UNREADABLE}: {found.problem}",) if found.problem else tuple(violations(found.measures, thresholds))
        first.append(Verdict(broken, item.clip.split))
    pairs: list[Pair] = []
    if duplicates.hash_distance is not None:
        known = [index for index, found in enumerate(seen) if found.look is not None]
        looks = [look for found in seen if (look := found.look) is not None]
        pairs = [
            pair._replace(first=known[pair.first], second=known[pair.second])
            for pair in near_duplicates(looks, duplicates.hash_distance, duplicates.look_distance)
        ]
    final = settle(items, seen, first, pairs, duplicates.straddle)
    nothing = [Verdict(split=item.clip.split) for item in items]
    alone = settle(items, seen, nothing, pairs, duplicates.straddle)
    return final, _rules(seen, thresholds, duplicates, final, alone), pairs


def settle(
    items: Sequence[Item], seen: Sequence[Seen], verdicts: Sequence[Verdict], pairs: Sequence[Pair], straddle: Straddle
) -> list[Verdict]:
    """Decide about near-duplicates among the clips that are kept so far.

    Clips are gone through in the order of their worth: held-out ones first, then the larger, longer, sharper, and at
    last by name.  One that is near a clip that stays is removed, so every removed clip has a partner that stays, and
    chains (a like b, b like c) do not swallow clips that are unlike each other.

    Held-out clips come first so that figures stay comparable: a clip that is alike on both sides of the split leaks,
    and taking it from the training side changes no validation set.  With "move_train" it is held out, too.
    """
    result = list(verdicts)
    near: dict[int, list[Pair]] = {}
    for pair in pairs:
        near.setdefault(pair.first, []).append(pair)
        near.setdefault(pair.second, []).append(pair)
    order = sorted((i for i, verdict in enumerate(verdicts) if verdict.keep), key=lambda i: _worth(items[i], seen[i]))
    staying: set[int] = set()
    for index in order:
        partners = [(pair, pair.first + pair.second - index) for pair in near.get(index, [])]
        partners = [(pair, other) for pair, other in partners if other in staying]
        if not partners:
            staying.add(index)
            continue
        held_out = [(pair, other) for pair, other in partners if result[other].split == "val"]
        pair, other = min(held_out or partners, key=lambda found: found[0].look_distance)
        straddles = items[index].clip.split != result[other].split
        if straddles and straddle == "move_train":
            result[index] = replace(result[index], split="val")
            staying.add(index)
            continue
        reason = f"like {_name(items, other)}" + (", mirrored" if pair.mirrored else "")
        kind = kind_of(items, index, other)
        reason += ", which is held out" if straddles else ""
        result[index] = replace(result[index], reasons=(reason,), duplicate_of=other, duplicate_kind=kind)
    return result


def kind_of(items: Sequence[Item], one: int, other: int) -> str:
    """Where the members of a pair stand."""
    if items[one].clip.split != items[other].clip.split:
        return "across the split"
    return "within the set" if items[one].folder == items[other].folder else "across sets"


def _name(items: Sequence[Item], index: int) -> str:
    """The key of a clip, with its folder where there are several."""
    several = len({item.folder for item in items}) > 1
    return f"{items[index].folder}/{items[index].clip.key}" if several else items[index].clip.key


def _worth(item: Item, seen: Seen) -> tuple[bool, float, float, float, str, str]:
    """Sorts the clips that should rather stay to the front."""
    clip = item.clip
    size, length = min(clip.height, clip.width), clip.num_frames
    return clip.split != "val", -size, -length, -(seen.measures.get("sharpness") or 0), item.folder, clip.key


def _rules(
    seen: Sequence[Seen], thresholds: Thresholds, duplicates: DuplicatesConfig, final: Sequence[Verdict],
    alone: Sequence[Verdict],
) -> list[Rule]:  # fmt: skip
    """The table, rule by rule."""
    broken: list[tuple[str, set[int]]] = [(UNREADABLE, {i for i, found in enumerate(seen) if found.problem})]
    for name, limits in active(thresholds):
        for sign, limit in ((">=", limits.min), ("<=", limits.max)):
            if limit is None:
                continue
            only = Limits(min=limit) if sign == ">=" else Limits(max=limit)
            one = replace(_none(), **{name: only})
            hit = {i for i, found in enumerate(seen) if violations(found.measures, one)}
            broken.append((f"{name} {sign} {limit:g}", hit))
    rules, removed = [], set[int]()
    for text, hit in broken:
        rules.append(Rule(text, len(hit), len(hit - removed), len(seen) - len(removed | hit)))
        removed |= hit
    if duplicates.hash_distance is not None:
        for kind in ("within the set", "across sets", "across the split"):
            by_itself = sum(verdict.duplicate_kind == kind for verdict in alone)
            hit = {i for i, verdict in enumerate(final) if verdict.duplicate_kind == kind}
            removed |= hit
            rules.append(Rule(f"no near-duplicate {kind}", by_itself, len(hit), len(seen) - len(removed)))
    return rules


def _none() -> Thresholds:
    return Thresholds(**{name: Limits() for name in MEASURES})
