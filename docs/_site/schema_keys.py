"""Every key of a configuration schema with its type and its comment, read from the source: nothing is imported.

A schema is a tree of dataclasses.  What a field means stands behind it, `size: int  # height, width`, or above it.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

WORDS = {
    "Count": "integer ≥ 1",
    "Natural": "integer ≥ 0",
    "Share": "number, 0 to 1",
    "Positive": "number > 0",
    "NonNegative": "number ≥ 0",
    "Weight": "number ≥ 0",
    "Zoom": "number ≥ 1",
    "bool": "true, false",
    "str": "text",
    "int": "integer",
    "float": "number",
    "None": "null",
    "Any": "anything",
}


@dataclass(frozen=True)
class Key:
    """One key of a schema.

    Attributes:
        name: in dots.
        type: for people.
        meaning: the comment behind the field, or of an inner node what its class says; "": none.
        inner: it has keys of its own.
    """

    name: str
    type: str
    meaning: str
    inner: bool


class _Module:
    """Classes, type aliases, imports and comments of one file."""

    def __init__(self, path: Path) -> None:
        text = path.read_text(encoding="utf-8")
        tree = ast.parse(text)
        self.path, self.lines = path, text.splitlines()
        self.classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
        self.aliases = {
            node.targets[0].id: node.value
            for node in tree.body
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
        }
        self.imports = {
            alias.asname or alias.name: (node.level, node.module or "")
            for node in tree.body
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        }
        self.comments = {
            token.start[0]: token.string.lstrip("# ")
            for token in tokenize.generate_tokens(io.StringIO(text).readline)
            if token.type == tokenize.COMMENT
        }

    def above(self, line: int) -> str:
        """The comment that stands in lines of its own right above a line (both count from 1)."""
        first = line - 1
        while self.lines[first - 1].lstrip().startswith("#"):
            first -= 1
        return " ".join(self.comments[number] for number in range(first + 1, line))

    def imported(self, name: str) -> _Module | None:
        """The module that a name comes from, if it is one of ours."""
        level, module = self.imports.get(name, (0, ""))
        above = self.path.parents[level - 1] if level else self.path
        roots = [above] if level else [p / "src" for p in self.path.parents] + list(self.path.parents)
        files = (root / f"{module.replace('.', '/')}.py" for root in roots) if module else ()
        file = next((f for f in files if f.is_file()), None)
        return _module(file) if file else None


@cache
def _module(path: Path) -> _Module:
    return _Module(path)


def schema_keys(file: Path, name: str, prefix: str = "") -> list[Key]:
    """All keys of the dataclass `name` in `file`, inner ones before what they hold; several classes may share a key."""
    return list(_fields(_module(file.resolve()), name, prefix))


def _fields(module: _Module, name: str, prefix: str) -> Iterator[Key]:
    for node in module.classes[name].body:
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        if node.target.id.startswith("__"):
            continue
        key = f"{prefix}{node.target.id}"
        lines = range(node.lineno, (node.end_lineno or node.lineno) + 1)
        meaning = " ".join(module.comments[line] for line in lines if line in module.comments)
        meaning = meaning or module.above(node.lineno)
        yield from _key(module, key, node.annotation, meaning)


def _key(module: _Module, key: str, annotation: ast.expr, meaning: str) -> Iterator[Key]:
    """A field, and the keys below it."""
    names = [n.id for n in ast.walk(annotation) if isinstance(n, ast.Name)]
    homes = [(home, n) for n in names if (home := _home(module, n)) is not None]
    options = _dict_keys(module, annotation)
    inner = bool(homes or options)
    if not meaning and homes:
        meaning = (ast.get_docstring(homes[0][0].classes[homes[0][1]]) or "").split("\n\n")[0].replace("\n", " ")
        meaning = meaning if len(homes) == 1 else ""
    yield Key(key, readable(module, annotation), meaning, inner)
    for option in options:
        yield Key(f"{key}.{option}", readable(module, annotation.slice.elts[1]), "", bool(homes))  # type: ignore[attr-defined]
    for home, name in homes:
        for option in options or [""]:
            yield from _fields(home, name, f"{key}.{option}." if option else f"{key}.")


def _home(module: _Module, name: str) -> _Module | None:
    if name in module.classes:
        return module
    home = module.imported(name)
    return home if home is not None and name in home.classes else None


def _dict_keys(module: _Module, annotation: ast.expr) -> list[str]:
    """The keys of `dict[Literal["a", "b"], ...]`."""
    if not (isinstance(annotation, ast.Subscript) and ast.unparse(annotation.value) == "dict"):
        return []
    names = annotation.slice.elts[0]  # type: ignore[attr-defined]
    names = module.aliases.get(names.id, names) if isinstance(names, ast.Name) else names
    return [c.value for c in ast.walk(names) if isinstance(c, ast.Constant) and isinstance(c.value, str)]


def readable(module: _Module, annotation: ast.expr) -> str:
    """A type in words: `Annotated[list[Count], Len(2, 2)] | None` is "list of 2, each: integer ≥ 1, or null"."""
    if isinstance(annotation, ast.BinOp):
        return ", or ".join(readable(module, side) for side in (annotation.left, annotation.right))
    if isinstance(annotation, ast.Constant):
        return str(WORDS.get(str(annotation.value), annotation.value))
    if isinstance(annotation, ast.Name):
        if annotation.id in WORDS:
            return WORDS[annotation.id]
        return readable(module, module.aliases[annotation.id]) if annotation.id in module.aliases else "keys below"
    if not isinstance(annotation, ast.Subscript):
        return ast.unparse(annotation)
    outer, inside = ast.unparse(annotation.value), annotation.slice
    parts = inside.elts if isinstance(inside, ast.Tuple) else [inside]
    if outer == "Literal":
        return ", ".join(str(p.value) for p in parts if isinstance(p, ast.Constant))
    if outer == "list":
        return f"list, each: {readable(module, parts[0])}"
    if outer == "dict":
        return f"NAME: {readable(module, parts[1])}"
    return _limited(readable(module, parts[0]), [ast.unparse(p) for p in parts[1:]])


def _limited(text: str, limits: list[str]) -> str:
    """A type with the limits of its `Annotated`."""
    signs = {"Ge": "≥", "Gt": ">", "Le": "≤", "Lt": "<"}
    said = []
    for limit in limits:
        if found := re.fullmatch(r"(Ge|Gt|Le|Lt)\((.+)\)", limit):
            said.append(f"{signs[found[1]]} {found[2]}")
        elif found := re.fullmatch(r"Len\((\d+), (\d+)\)", limit):
            text = text.replace("list,", f"list of {found[1]},", 1)
    return f"{text} {' and '.join(said)}".strip()
