"""Prompts on the command line mean what they say: `prompt="fire, smoke {blue}"` is a text, not Hydra's grammar."""

from __future__ import annotations

from collections.abc import Sequence

TEXT_KEYS = ("prompt", "negative_prompt", "image", "prompts", "distill", "preview", "out", "background")


def plain_text(arguments: Sequence[str]) -> list[str]:
    """Arguments with the values of text keys quoted for Hydra; those that are quoted or null already stay."""
    return [_quoted(argument) for argument in arguments]


def _quoted(argument: str) -> str:
    key, equals, value = argument.partition("=")
    is_quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "\"'"
    if key not in TEXT_KEYS or not equals or is_quoted or value == "null":
        return argument
    # In Hydra's quoted strings a backslash counts only before a quote; at the end it would take the closing one.
    tail = len(value) - len(value.rstrip("\\"))
    body = (value[: len(value) - tail] + "\\" * (2 * tail)).replace("'", "\\'")
    return f"{key}='{_interpolation_free(body)}'"


def _interpolation_free(text: str) -> str:
    """`${` would be looked up by OmegaConf."""
    return text.replace("${", "\\${")
