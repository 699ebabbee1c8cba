"""The page of all configuration keys, made of `conf/` and the schemas: there is no second list to keep.

python docs/_site/config_page.py      # prints it
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from schema_keys import Key, schema_keys
from yaml_keys import Entry, read_file

ROOT = Path(__file__).resolve().parents[2]
CONF = ROOT / "conf"


@dataclass(frozen=True)
class Program:
    """An entry point: its command, its schema, and the files of `conf/` with its values."""

    title: str
    command: str
    schema: str
    name: str
    main: str
    groups: tuple[str, ...] = ()
    shared: tuple[str, ...] = ()  # groups that train.py has, too


def groups() -> tuple[str, ...]:
    """The folders of `conf/` that hold keys of train.py; experiments have their own page, `local` is yours,
    and what lies in `hydra` is Hydra's."""
    found = sorted(path.name for path in CONF.iterdir() if path.is_dir())
    first = ["stage", "model", "base", "data", "trainer"]
    left = [name for name in found if name not in (*first, "experiment", "local", "hydra")]
    return tuple(name for name in [*first, *left] if name in found)


PROGRAMS = (
    Program("train.py", "python train.py", "src/wan_alpha/training/config.py", "RunConfig", "train", groups()),
    Program(
        "generate.py", "python generate.py", "src/wan_alpha/pipeline/config.py", "GenerateConfig", "generate",
        shared=("base",),
    ),
    Program(
        "evaluate.py", "python evaluate.py", "src/wan_alpha/evaluating/config.py", "EvaluateConfig", "evaluate",
        shared=("base", "data", "logger"),
    ),
    Program(
        "data_prep.curate", "python -m data_prep.curate", "data_prep/curation/config.py", "CurateConfig", "curate"
    ),
)  # fmt: skip


def files(program: Program, shared: bool = False) -> Iterator[tuple[Path, str]]:
    """(file, package of its keys): the entry point's own file, then its groups."""
    yield CONF / f"{program.main}.yaml", ""
    for group in (*program.groups, *(program.shared if shared else ())):
        folder = sorted((CONF / group).glob("*.yaml"), key=lambda f: (f.stem not in ("common", "cpu", "csv"), f.stem))
        yield from ((file, f"{group}.") for file in folder)


def known_keys(program: Program) -> dict[str, Key]:
    """Keys of the schema; of several with one name (model.init_from of each stage) types are joined."""
    keys: dict[str, Key] = {}
    for key in schema_keys(ROOT / program.schema, program.name):
        before = keys.get(key.name)
        if before is None:
            keys[key.name] = key
        else:
            types = before.type if key.type in before.type else f"{before.type}; {key.type}"
            keys[key.name] = Key(key.name, types, before.meaning or key.meaning, before.inner or key.inner)
    return keys


def read(file: Path, package: str, keys: dict[str, Key]) -> tuple[str, list[Entry]]:
    """`read_file` without the keys of free-form parts, which go to another library as they are."""
    header, entries = read_file(file, package)
    free = tuple(f"{name}." for name, key in keys.items() if key.type.startswith("NAME: "))
    return header, [e for e in entries if e.name in keys or not e.name.startswith(free)]


def meanings(program: Program) -> dict[str, str]:
    """Every key of an entry point -> what it means, "" if nobody says.

    Comments of `conf/` come before the schema's.  A key out of a dictionary shares the meaning of what it stands in.
    """
    keys = known_keys(program)
    said = dict.fromkeys(keys, "")
    for file, package in files(program, shared=True):
        for entry in read(file, package, keys)[1]:
            said[entry.name] = said.get(entry.name) or entry.comment
    for name, key in keys.items():
        if said[name] in key.meaning:  # nothing, or less than the schema says
            said[name] = key.meaning
    for name in sorted(said):
        parent = name.rpartition(".")[0]
        if not said[name] and parent in keys and "NAME: " in keys[parent].type:
            said[name] = said[parent]
    return said


def cell(text: str) -> str:
    """Text that may stand in a Markdown table and is shown as it is."""
    for sign, shown in (("|", "\\|"), ("<", "&lt;"), ("*", "\\*"), ("_", "\\_"), ("[", "\\["), ("`", "\\`")):
        text = text.replace(sign, shown)
    return text


def code(text: str) -> str:
    return f"`{text}`" if text else ""


def table(entries: list[Entry], keys: dict[str, Key], said: dict[str, str]) -> Iterator[str]:
    """Rows of one file."""
    yield "| key | value here | may be | meaning |"
    yield "| --- | --- | --- | --- |"
    for entry in entries:
        kind = keys[entry.name].type if entry.name in keys else ""
        kind = "" if keys.get(entry.name) and keys[entry.name].inner and not entry.value else kind
        meaning = said[entry.name] if entry.comment in said[entry.name] else entry.comment
        yield f"| {code(entry.name)} | {code(entry.value)} | {cell(kind)} | {cell(meaning)} |"


def page() -> str:
    """The whole page in Markdown."""
    lines = [
        "# Every key",
        "",
        "Made from the comments in `conf/` and the schemas when this site is built. On the command line a key is",
        "`KEY=VALUE`, a group is chosen by `GROUP=FILE` (`data=clips`). `python train.py --cfg job` prints the tree;",
        "a mistyped key is an error that names the key, its file and the nearest valid one.",
        "",
    ]
    for program in PROGRAMS:
        keys, said, shown = known_keys(program), meanings(program), dict[str, str]()
        lines += [f"## {program.title}", "", f"    {program.command} KEY=VALUE ...", ""]
        for file, package in files(program):
            header, entries = read(file, package, keys)
            if entries:
                shown |= {entry.name: entry.value for entry in entries}
                choice = f" (`{package[:-1]}={file.stem}`)" if package else ""
                lines += [
                    f"### {file.relative_to(ROOT)}{choice}",
                    "",
                    cell(header),
                    "",
                    *table(entries, keys, said),
                    "",
                ]
        if program.shared:
            lines += [f"The keys of {', '.join(f'`{g}`' for g in program.shared)} are those of train.py.", ""]
            shown |= {name: "" for name in keys if name.split(".")[0] in program.shared}
        shown |= dict.fromkeys(program.groups, "")
        rest = [key for key in keys.values() if key.name not in shown and not covered(key.name, shown)]
        if rest:
            entries = [Entry(key.name, "", said[key.name]) for key in rest]
            lines += [
                "### Keys without a value in conf",
                "",
                "Of lists and parts that are empty unless you fill them.",
                "",
            ]
            lines += [*table(entries, keys, said), ""]
    return "\n".join(lines)


def covered(name: str, shown: dict[str, str]) -> bool:
    """Whether a key stands inside a value that is shown in one piece, `change: {min: 0.1, max: null}`."""
    return shown.get(name.rpartition(".")[0], "").startswith("{")


if __name__ == "__main__":
    print(page())
