"""The page of results: every file in benchmarks/results and experiments/results with the command that made it.

python docs/_site/results_page.py      # prints it
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS, RESULTS = ROOT / "benchmarks", ROOT / "benchmarks" / "results"
EXPERIMENTS = ROOT / "experiments"


def benchmark_of(name: str) -> Path | None:
    """The benchmark whose name a file of results begins with: `dora_step_small_cpu` is of dora_step.py."""
    scripts = [path for path in BENCHMARKS.glob("*.py") if name == path.stem or name.startswith(f"{path.stem}_")]
    return max(scripts, key=lambda path: len(path.stem), default=None)


def about(script: Path) -> tuple[str, str]:
    """The first sentence of a script's docstring, and the first command in it."""
    text = ast.get_docstring(ast.parse(script.read_text(encoding="utf-8"))) or ""
    commands = re.findall(r"^\s*(python -m \S+[^#\n]*)", text, re.M)
    return text.split("\n\n")[0].replace("\n", " "), commands[0].strip() if commands else ""


def facts(content: Any) -> Iterator[tuple[str, str]]:
    """What a file of results says of its own making."""
    for name in ("command", "commit", "machine", "torch", "settings", "ended_early"):
        value = content.get(name) if isinstance(content, dict) else None
        if value not in (None, "", {}):
            yield name.replace("_", " "), value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def figures(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """(dotted name, number) of everything measured; long lists are left to the file."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if name or key not in ("command", "commit", "machine", "torch", "settings"):
                yield from figures(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list):
        if len(value) <= 4 and all(isinstance(v, dict) for v in value):
            for index, inner in enumerate(value):
                yield from figures(inner, f"{name}[{index}]")
        elif len(value) <= 8:
            yield name, ", ".join(number(v) for v in value)
    elif value is not None:
        yield name, number(value)


def number(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def section(script: Path, files: list[Path]) -> Iterator[str]:
    """One benchmark and its results."""
    what, command = about(script)
    yield from (f"### {script.stem}", "", what, "")
    if command:
        yield from (f"    {command}", "")
    for path in files:
        where = path.relative_to(ROOT).as_posix()
        if path.suffix == ".png":
            yield from (f"![{path.stem}]({where})", "")
            continue
        yield from (f"**[{path.name}]({where})**", "")
        if path.suffix != ".json":
            continue
        content = json.loads(path.read_text(encoding="utf-8"))
        for name, said in facts(content):
            yield f"- {name}: `{said}`"
        rows = list(figures(content))
        if rows:
            yield from ("", '??? note "Figures"', "", "    | figure | value |", "    | --- | --- |")
            yield from (f"    | `{name}` | {value.replace('|', '/')} |" for name, value in rows[:60])
            if len(rows) > 60:
                yield from ("", f"    … {len(rows) - 60} more in the file.")
        yield ""


def trained() -> Iterator[str]:
    """Tables that experiments left."""
    for path in sorted((EXPERIMENTS / "results").glob("*.md")):
        yield from (f"### {path.stem}", "")
        if (EXPERIMENTS / path.with_suffix(".yaml").name).exists():
            yield f"Of `experiment={path.stem}` and the parts that go on from it. Which have been run"
            yield from ("stands in [the list of experiments](experiments/README.md).", "")
        yield from (path.read_text(encoding="utf-8").strip(), "")
        raw = path.with_suffix(".json")
        if raw.exists():
            yield from (f"[Raw figures]({raw.relative_to(ROOT).as_posix()})", "")


def page() -> str:
    """The whole page in Markdown."""
    groups: dict[Path, list[Path]] = {}
    for path in sorted(RESULTS.iterdir()):
        script = benchmark_of(path.stem)
        if script is not None and path.suffix in (".json", ".md", ".png"):
            groups.setdefault(script, []).append(path)
    lines = [
        "# Results and their commands",
        "",
        "Collected from `benchmarks/results/` and `experiments/results/` when this site is built. Each file stands",
        "below the benchmark that it belongs to; the command, commit and machine that a file names are shown with it.",
        "What each experiment is, and whether it has been run, is on [its page](experiments/README.md); what is bad or",
        "missing, under [limits](limits.md).",
        "",
        "## Training runs",
        "",
        *trained(),
        "## Measurements",
        "",
    ]
    for script, files in sorted(groups.items()):
        lines += section(script, files)
    return "\n".join(lines)


if __name__ == "__main__":
    print(page())
