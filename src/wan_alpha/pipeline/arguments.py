"""On the command line, prompts and paths mean what they say: `fire, smoke {blue}` is a text, not Hydra's grammar."""

from __future__ import annotations

from collections.abc import Sequence

from wan_alpha.command import quoted, quoted_list

TEXT_KEYS = ("prompt", "negative_prompt", "image", "prompts", "distill", "preview", "out", "background", "adapters",
             "base.path")  # fmt: skip


def plain_text(arguments: Sequence[str]) -> list[str]:
    """Arguments with the values of text keys quoted for Hydra; those that are quoted or null already stay."""
    return [_plain(argument) for argument in arguments]


def _plain(argument: str) -> str:
    key, equals, value = argument.partition("=")
    if key not in TEXT_KEYS or not equals:
        return argument
    several = key == "adapters" and value.startswith("[")
    return f"{key}={quoted_list(value) if several else quoted(value)}"
