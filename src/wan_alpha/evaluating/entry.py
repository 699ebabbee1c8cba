"""What people type, in the words of Hydra's grammar."""

from __future__ import annotations

OPEN = ("videos.", "codecs.", "generators.")
"""Groups in which users name their own keys; Hydra wants a + before a key that no file has."""
LISTS = ("compare=", "votes=")
"""Keys whose value may be given as A,B; Hydra would take that for a sweep."""


def plain_arguments(arguments: list[str]) -> list[str]:
    """For Hydra: `videos.NAME=DIR` becomes `++videos.NAME='DIR'`, `compare=A,B` becomes `compare=['A','B']`."""
    return [_plain(argument) for argument in arguments]


def _plain(argument: str) -> str:
    key, equals, value = argument.partition("=")
    if argument.startswith(OPEN) and equals:
        return f"++{key}={_quoted(value)}"
    for name in LISTS:
        value = argument.removeprefix(name)
        if argument.startswith(name) and not value.startswith("[") and value != "null":
            return f"{name}[{','.join(_quoted(part) for part in value.split(','))}]"
    return argument


def _quoted(value: str) -> str:
    """A path as Hydra's grammar takes it: it knows no letters beyond ASCII, no spaces and no = without quotes."""
    if value[:1] in ("'", '"') or value == "null":
        return value
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
