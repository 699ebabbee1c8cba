"""What people type, in the words of Hydra's grammar."""

from __future__ import annotations

from wan_alpha.command import quoted, quoted_list

OPEN = ("videos.", "codecs.", "generators.")
"""Groups in which users name their own keys; Hydra wants a + before a key that no file has."""
LISTS = ("compare", "votes")
"""Keys whose value may be given as A,B; Hydra would take that for a sweep."""
TEXTS = ("out", "prompts", "adapters", "vbench", "base.path", "data.root", "networks.lpips", "networks.fid",
         "networks.fvd", "networks.clip", "networks.reference", "judge.endpoint", "judge.model")  # fmt: skip
"""Paths and names; Hydra knows no letters beyond ASCII and no = in them."""


def plain_arguments(arguments: list[str]) -> list[str]:
    """For Hydra: `videos.NAME=DIR` becomes `++videos.NAME='DIR'`, `compare=A,B` becomes `compare=['A','B']`."""
    return [_plain(argument) for argument in arguments]


def _plain(argument: str) -> str:
    key, equals, value = argument.partition("=")
    if not equals:
        return argument
    if key.startswith(OPEN):
        return f"++{key}={quoted(value)}"
    if key in LISTS and value != "null":
        return f"{key}={quoted_list(value)}"
    return f"{key}={quoted(value)}" if key in TEXTS else argument
