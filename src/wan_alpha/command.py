"""Between Hydra and the code, for every entry point: check the composed tree, turn expected failures into sentences.

An entry point is `@hydra.main(...) def main(cfg)`, which begins with `config, tree = validated(cfg, ItsSchema)`, and is
started with `run_command(main, ItsSchema)`.
"""

from __future__ import annotations

import difflib
import errno
import io
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, cast, get_args, get_origin, get_type_hints

import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import TypeAdapter, ValidationError
from rich.console import Console
from rich.markup import escape

from wan_alpha.encoding import refused_encoding

Schema = TypeVar("Schema")
_QUOTED = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"", re.DOTALL)
LOADERS = (
    "Most often the machine has run out of memory: take a smaller data.num_workers or data.batch_size, and in a "
    "container give it more shared memory (/dev/shm). Then run the same command again"
)
NO_ACCESS = (errno.EACCES, errno.EPERM, errno.EROFS)
FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
MORE_LAUNCHERS = "\nSlurm's launcher and Optuna come with: pip install 'wan-alpha[sweeps]'"


class ConfigError(ValueError):
    """A key that does not exist, has the wrong type or is out of range."""


def validated(cfg: DictConfig, schema: type[Schema]) -> tuple[Schema, dict[str, Any]]:
    """The composed tree as a dataclass, and as plain containers.

    Args:
        cfg: what Hydra composed.
        schema: a dataclass that pydantic can check, strict about unknown keys (`extra="forbid"`).

    Raises:
        ConfigError: names each wrong key, the file it stands in and the nearest valid key.
    """
    if missing := sorted(OmegaConf.missing_keys(cfg)):
        raise ConfigError("\n".join(f"{key} has no value: give it on the command line, {key}=..." for key in missing))
    tree = cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=True))
    try:
        config = TypeAdapter(schema).validate_python(tree)
    except ValidationError as error:
        raise ConfigError("\n".join(_sentence(e, tree, schema) for e in error.errors())) from None
    return config, tree


def _sentence(error: Any, tree: dict[str, Any], schema: type) -> str:
    absent = error["type"] in ("missing", "unexpected_keyword_argument", "extra_forbidden")
    location, value = _location(error["loc"], tree, absent), error["input"]
    if error["type"] == "union_tag_invalid":
        location, value = [*location, "kind"], error["ctx"]["tag"]
    key = ".".join(location)
    if error["type"] == "missing":
        return f"{key} has no value: give it on the command line, {key}=..."
    if absent or error["loc"][-1] == "[key]":
        return f"{key}: no such key, {_origin(location)}.{_nearest(key, schema)}"
    return f"{key}={value!r}: {error['msg'][:1].lower()}{error['msg'][1:]}, {_origin(location)}"


def _location(loc: tuple[int | str, ...], tree: dict[str, Any], absent: bool) -> list[str]:
    """Where an error is, in keys; pydantic also names the branch of a union that it took, and marks keys of a dict.

    `absent`: the last key is none of the tree's.
    """
    location, node = [], cast(Any, tree)
    for number, part in enumerate(loc):
        known = isinstance(part, int) or (isinstance(node, dict) and part in node)
        if (not known and not (absent and number == len(loc) - 1)) or part == "[key]":
            continue
        location.append(str(part))
        node = node[part] if known and node is not None else None
    return location


def quoted(text: str) -> str:
    """A text as Hydra's grammar takes it, whatever signs it holds; one that is quoted already, and null, stay."""
    if text == "null" or _QUOTED.fullmatch(text):
        return text
    # OmegaConf would look `${` up, Hydra take a quote, or backslashes before it or the end, for the end of the text.
    text = re.sub(r"(\\*)\$\{", r"\1\1\\${", text)
    text = re.sub(r"(\\*)'", r"\1\1\\'", text)
    text = re.sub(r"(\\+)\Z", r"\1\1", text)
    return f"'{text}'"


def quoted_list(text: str) -> str:
    """The same of every part of `A,B` or `[A,B]`; a list in brackets that holds quotes is Hydra's own and stays."""
    in_brackets = text.startswith("[") and text.endswith("]")
    if in_brackets and ("'" in text or '"' in text):
        return text
    inside = text[1:-1] if in_brackets else text
    return f"[{','.join(quoted(part.strip()) for part in inside.split(','))}]"


def plain_texts(arguments: Sequence[str], *keys: str) -> list[str]:
    """Arguments whose values of some keys, texts or [lists, of, texts], are quoted for Hydra; in a sweep they stay."""
    if {"-m", "--multirun"} & set(arguments):
        return list(arguments)
    parts = [argument.partition("=") for argument in arguments]
    return [
        f"{key}={quoted_list(text) if text.startswith('[') else quoted(text)}" if key in keys and equals else argument
        for argument, (key, equals, text) in zip(arguments, parts, strict=True)
    ]


def _origin(location: list[str]) -> str:
    """The configuration file that sets a key, as far as the composition tells; else the command line."""
    if not HydraConfig.initialized():
        return "in the configuration"
    runtime = HydraConfig.get().runtime
    overrides = list(HydraConfig.get().overrides.task)
    given = [o.lstrip("+~").split("=")[0] for o in overrides]
    if any(f"{'.'.join(location)}.".startswith(f"{key}.") for key in given if key not in runtime.choices):
        return "on the command line"
    root = next(Path(s.path) for s in runtime.config_sources if s.provider == "main")
    primary = root / f"{HydraConfig.get().job.config_name}.yaml"
    choices = [(g, n) for g, n in runtime.choices.items() if n and not g.startswith("hydra")]
    files = [(root / group / f"{name}.yaml", group) for group, name in choices] + [(primary, "")]
    # The experiment and debug files come last in the composition and win.
    for chosen, group in sorted(files, key=lambda f: f[1] not in ("local", "debug", "ablation", "experiment")):
        file = next((f for f in _with_defaults(chosen) if _sets(f, group, location)), None)
        if file is not None:
            return f"in {file.resolve().relative_to(root.resolve().parent)}"
    return "in the configuration"


def _with_defaults(file: Path) -> Iterator[Path]:
    """A file and those of its folder that its defaults list names; earlier ones win."""
    if file.exists():
        yield file
        names = (yaml.safe_load(file.read_text()) or {}).get("defaults", [])
        for name in reversed([n for n in names if isinstance(n, str) and n != "_self_"]):
            yield from _with_defaults(file.parent / f"{name}.yaml")


def _sets(file: Path, group: str, location: list[str]) -> bool:
    node = yaml.safe_load(file.read_text()) or {}
    is_global = "@package _global_" in file.read_text().split("\n", 1)[0]
    path = location if is_global or not group else location[1:] if location[0] == group else None
    for part in path or ():
        if not isinstance(node, dict) or part not in node:
            return False
        node = node[part]
    return bool(path)


def valid_keys(schema: type, prefix: str = "") -> Iterator[str]:
    """Every key of the schema, in dots."""
    hints = get_type_hints(schema)
    for item in fields(schema):
        key = f"{prefix}{item.name}"
        yield key
        hint = hints[item.name]
        if get_origin(hint) is dict:
            names, values = get_args(hint)
            for name in get_args(names):
                yield f"{key}.{name}"
                if isinstance(values, type) and is_dataclass(values):
                    yield from valid_keys(values, f"{key}.{name}.")
            continue
        for candidate in (hint, *get_args(hint), *(a for b in get_args(hint) for a in get_args(b))):
            if isinstance(candidate, type) and is_dataclass(candidate):
                yield from valid_keys(candidate, f"{key}.")


def _nearest(key: str, schema: type) -> str:
    """A hint at what was meant: a key beside it or elsewhere that is written nearly so, or that has this word in it."""
    known = sorted(set(valid_keys(schema)))
    parent, _, word = key.rpartition(".")
    beside = {k.rpartition(".")[2]: k for k in known if k.rpartition(".")[0] == parent}
    elsewhere = {k.rpartition(".")[2]: k for k in known}
    one_letter = max(1, len(word) - 1) / max(2, len(word))  # how alike difflib finds words of which one letter differs
    tries = [(word, elsewhere, 1.0), (word, beside, min(0.75, one_letter)), (word, elsewhere, 0.85)]
    if not beside:  # its mistake is further left
        tries.insert(0, (key, {k: k for k in known}, 0.7))
    for text, names, cutoff in tries:
        if found := difflib.get_close_matches(text, names, n=1, cutoff=cutoff):
            return f" Did you mean {names[found[0]]}?"
    longer = [f" Did you mean {k}?" for name, k in (beside | elsewhere).items() if word in name.split("_")][:1]
    rest = f" {parent or 'The configuration'} has {', '.join(beside)}." if beside else " See conf/ for all keys."
    return "".join(longer) + rest


def run_command(
    main: Callable[[], None], schema: type, interrupted: str = "the same command continues from where it was"
) -> None:
    """Run a Hydra entry point; expected failures end in a sentence and exit code 1, others in a traceback.

    An error may bring another code as its `exit_code`.

    Args:
        main: the function under `hydra.main`.
        schema: names the valid keys for whoever mistyped one.
        interrupted: what to tell whoever pressed Ctrl-C.
    """
    if refused := refused_encoding():
        _fail(refused)
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra would print and exit by itself, without our sentence
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # a reader that is gone is noticed at once, not when Python ends
    try:
        main()
    except KeyboardInterrupt:
        _fail(f"interrupted; {interrupted}", 130)
    except BrokenPipeError:  # whoever reads our output, as `| head` does, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes it once more at its end
        sys.exit(1)
    except yaml.YAMLError as error:
        _fail(f"a configuration file is not valid YAML: {error}")
    except (HydraException, OmegaConfBaseException) as error:
        _fail(_composition_sentence(error, schema))
    except (ValueError, RuntimeError, OSError) as error:
        if type(error).__module__.startswith(("wan_alpha", "data_prep")):
            _fail(said_by(error), getattr(error, "exit_code", 1))
        if isinstance(error, OSError) and error.errno in FULL_DISK:
            _fail(f"{error}; free some space and run the same command again")
        if isinstance(error, OSError) and error.errno in NO_ACCESS:
            _fail(f"{error}; give files that you may read and a place where you may write (run_dir=..., out=...)")
        if str(error).startswith("DataLoader worker (pid"):
            _fail(f"a loader process is gone: {str(error).strip()} {LOADERS}")
        raise


def said_by(error: BaseException) -> str:
    """An error's message.  If a loader process has met it, torch has put it behind that process's whole traceback."""
    return str(error).rpartition(f"\n{type(error).__module__}.{type(error).__qualname__}: ")[2].strip()


def _composition_sentence(error: Exception, schema: type) -> str:
    if isinstance(error, OverrideParseException):
        return (
            f"{error.override}: not understood ({error.message.splitlines()[0]}); a value with brackets, commas, "
            "quotes, # or letters like ü in it stands between quotes of its own: \"KEY='VALUE'\""
        )
    text = f"{error}\n{error.__cause__ or ''}"
    absent = re.search(r"Could not (?:find|load) 'hydra/(?:launcher|sweeper)/", text)
    if isinstance(error, MissingConfigException) and error.options and not absent:
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        return f"{group}={name}: no such choice; there are {', '.join(error.options)}"
    if unset := re.search(r"Missing mandatory value: (\S+)", text):
        return f"{unset[1]} has no value: give it on the command line, {unset[1]}=..."
    found = re.search(r"Could not override '([^']+)'", text)
    if found is None:
        return f"{error}{MORE_LAUNCHERS if absent else ''}"
    key = found.group(1)
    return f"{key}: no such key, on the command line.{_nearest(key, schema)}"


def _fail(message: str, code: int = 1) -> None:
    if message:  # one of several ranks speaks for all
        Console(stderr=True).print(f"[bold red]error[/bold red] {escape(message)}", highlight=False, soft_wrap=True)
    sys.exit(code)
