"""What people type, in the words of Hydra's grammar."""

from __future__ import annotations

OPEN = ("videos.", "codecs.", "generators.")
"""Groups in which users name their own keys; Hydra wants a + before a key that no file has."""
LISTS = ("compare=", "votes=")
"""Keys whose value may be given as A,B; Hydra would take that for a sweep."""


def plain_arguments(arguments: list[str]) -> list[str]:
    """Arguments for Hydra: `videos.NAME=DIR` becomes `++videos.NAME=DIR`, `compare=A,B` becomes `compare=[A,B]`."""
    return [_plain(argument) for argument in arguments]


def _plain(argument: str) -> str:
    if argument.startswith(OPEN) and "=" in argument:
        return f"++{argument}"
    for key in LISTS:
        value = argument.removeprefix(key)
        if argument.startswith(key) and not value.startswith("[") and value != "null":
            return f"{key}[{value}]"
    return argument
