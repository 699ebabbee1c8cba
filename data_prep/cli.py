"""`key=value` command lines from a dataclass: its fields are the keys, its annotations the types.

@dataclass
class Options:
    root: Annotated[Path, "where the clips lie"]
    size: Annotated[Count | None, "side of the result in pixels"] = None    # ranges come from `wan_alpha.schema`

options = parse(Options, sys.argv[1:], "python -m data_prep.step")
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import errno
import sys
import typing
from collections.abc import Iterator
from pathlib import Path
from types import NoneType
from typing import Any

from pydantic import TypeAdapter, ValidationError

from wan_alpha.encoding import refused_encoding

Options = typing.TypeVar("Options")
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NO_ACCESS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR)


def parse(schema: type[Options], arguments: list[str], program: str) -> Options:
    """Read `key=value` arguments into `schema`; `--help` prints its docstring and keys.

    Raises:
        SystemExit: help was asked for (code 0), or an argument is not understood (the message says why and what
            was probably meant).
    """
    if refused := refused_encoding():
        raise SystemExit(f"{program}: {refused}")
    types, helps = _keys(schema)
    if {"--help", "-h", "help"} & set(arguments):
        print(describe(schema, program))
        raise SystemExit(0)
    values: dict[str, Any] = {}
    for argument in arguments:
        key, equals, text = argument.partition("=")
        key = key.lstrip("-")
        if key not in types:
            close = difflib.get_close_matches(key, types, n=1, cutoff=0.4)
            hint = f"did you mean {close[0]!r}?" if close else f"valid keys: {', '.join(types)}"
            raise SystemExit(f"{program}: unknown key {key!r}; {hint} (--help lists all)")
        if not equals:
            raise SystemExit(f"{program}: expected {key}=VALUE, got {argument!r}")
        values[key] = _convert(program, key, text, types[key])
    for field in dataclasses.fields(schema):  # type: ignore[arg-type]
        if field.name not in values and field.default is dataclasses.MISSING:
            raise SystemExit(f"{program}: {field.name}=... is missing: {helps[field.name]} (--help lists all keys)")
    return schema(**values)


def describe(schema: type, program: str) -> str:
    """The help text: what the step does and one line per key."""
    _, helps = _keys(schema)
    lines = [f"usage: {program} key=value ...", "", (schema.__doc__ or "").strip(), ""]
    for field in dataclasses.fields(schema):
        default = "required" if field.default is dataclasses.MISSING else f"default {field.default}"
        lines.append(f"  {field.name + '=...':<16} {helps[field.name]} ({default})")
    return "\n".join(lines)


def _keys(schema: type) -> tuple[dict[str, Any], dict[str, str]]:
    """Types and help texts of the fields, which are `Annotated[type, "help"]`; a type may bring its range."""
    hints = typing.get_type_hints(schema, include_extras=True)
    return hints, {name: next(m for m in hint.__metadata__ if isinstance(m, str)) for name, hint in hints.items()}


def _convert(program: str, key: str, text: str, hint: Any) -> Any:
    """`text` as a value of the annotated type (str, int, float, bool, Path, or one of these or None), in its range."""
    kind = typing.get_args(hint)[0]
    kinds = [member for member in typing.get_args(kind) if member is not NoneType] or [kind]
    kinds = [getattr(member, "__origin__", member) for member in kinds]  # without its range
    if text.lower() in ("null", "none") and NoneType in typing.get_args(kind):
        return None
    if kinds[0] is bool:
        if text.lower() in ("true", "false"):
            return text.lower() == "true"
        raise SystemExit(f"{program}: {key}: expected true or false, got {text!r}")
    try:
        value = Path(text).expanduser() if kinds[0] is Path else kinds[0](text)
    except ValueError:
        raise SystemExit(f"{program}: {key}: expected {kinds[0].__name__}, got {text!r}") from None
    try:
        return TypeAdapter(hint).validate_python(value)
    except ValidationError as error:
        said = error.errors()[0]["msg"]
        raise SystemExit(f"{program}: {key}={text}: {said[:1].lower()}{said[1:]} (--help lists all keys)") from None


@contextlib.contextmanager
def told() -> Iterator[None]:
    """Say in a sentence what ended a step: bad data, a full or closed disk, or the user; others keep their trace."""
    try:
        yield
    except ValueError as error:  # `DataError` is one, and so are those that the library raises about models
        if not type(error).__module__.startswith("wan_alpha"):
            raise
        fail(str(error))
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        if error.errno in NO_ACCESS:
            fail(f"{place}{error.strerror}; give files that you may read and a place where you may write")
        if error.errno not in NO_ROOM:
            raise
        fail(
            f"{place}cannot be written ({error.strerror or error}); make room and run the same command again: "
            "it continues with what is left"
        )
    except KeyboardInterrupt:
        print("interrupted; the same command continues", file=sys.stderr)
        raise SystemExit(130) from None


def fail(message: str) -> typing.NoReturn:
    """End the program with a message on standard error and exit code 1."""
    print(message, file=sys.stderr)
    raise SystemExit(1)
