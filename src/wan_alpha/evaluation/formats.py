"""One summary as CSV, Markdown, LaTeX and a table for terminals: best in bold, with intervals."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping

from rich import box
from rich.markup import escape
from rich.table import Table

from wan_alpha.evaluation.figures import ARROWS, figure, show
from wan_alpha.evaluation.scores import Scores
from wan_alpha.evaluation.statistics import Estimate
from wan_alpha.evaluation.summary import Row, Summary, best

ABSENT = "–"


def cell(name: str, row: Mapping[str, Estimate]) -> tuple[str, str]:
    """(mean, interval) as text; the interval is "" where there is none."""
    if name not in row:
        return ABSENT, ""
    found = row[name]
    if found.failed:
        return f"NaN ({found.failed}/{found.count})", ""
    if not math.isfinite(found.low):
        return show(name, found.mean), ""
    return show(name, found.mean), f"{show(name, found.low)}–{show(name, found.high)}"


def heading(name: str) -> str:
    """`alpha PSNR ↑`."""
    found = figure(name)
    return f"{found.heading} {ARROWS[found.better]}".strip()


def terminal_table(summary: Summary, title: str) -> Table:
    """Means, figures down and systems across: any number of figures fits; the intervals are in the files."""
    table = Table(title=escape(title), box=box.SIMPLE_HEAD, padding=(0, 1))
    table.add_column("", no_wrap=True)
    for system in summary.systems:
        table.add_column(escape(system), justify="right", no_wrap=True)
    for name in summary.figures():
        winners = best(summary, name)
        cells = []
        for system, row in summary.systems.items():
            mean, _ = cell(name, row)
            cells.append(f"[bold]{mean}[/bold]" if system in winners else mean)
        table.add_row(heading(name), *cells)
    return table


def markdown(summary: Summary, rows: Mapping[str, Row] | None = None) -> str:
    """Figures down, systems across, in Markdown."""
    rows = rows if rows is not None else summary.systems
    lines = [["", *(name.replace("|", r"\|") for name in rows)], ["---", *("---:" for _ in rows)]]
    for name in summary.figures():
        winners = best(Summary(dict(rows)), name)
        cells = []
        for system, row in rows.items():
            mean, interval = cell(name, row)
            cells.append((f"**{mean}**" if system in winners else mean) + (f" ({interval})" if interval else ""))
        lines.append([heading(name), *cells])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def latex(summary: Summary) -> str:
    """Systems down, figures across, for booktabs; intervals as half-widths would lie, so they are given whole."""
    names = summary.figures()
    symbols = {"↑": r"$\uparrow$", "↓": r"$\downarrow$", "×": r"$\times$", "³": "$^3$", "²": "$^2$", "é": r"\'e"}
    lines = [
        r"% needs \usepackage{booktabs}",
        rf"\begin{{tabular}}{{l{'r' * len(names)}}}",
        r"\toprule",
        " & ".join(["", *(_tex(heading(name), symbols) for name in names)]) + r" \\",
        r"\midrule",
    ]
    winners = {name: best(summary, name) for name in names}
    for system, row in summary.systems.items():
        cells = [_tex(system, symbols)]
        for name in names:
            mean, interval = cell(name, row)
            text = rf"\textbf{{{mean}}}" if system in winners[name] else mean.replace(ABSENT, "--")
            cells.append(text + (rf" {{\scriptsize [{interval.replace(ABSENT, '--')}]}}" if interval else ""))
        lines.append(" & ".join(cells) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def _tex(text: str, symbols: Mapping[str, str]) -> str:
    spelled = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    escaped = "".join(f"\\{c}" if c in "&%$#_{}" else spelled.get(c, c) for c in text)
    for symbol, code in symbols.items():
        escaped = escaped.replace(symbol, code)
    return escaped


def summary_csv(summary: Summary) -> str:
    """One line per system, category and figure, every digit kept; "all" is the mean over clips."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["system", "category", "figure", "mean", "low", "high", "clips", "failed"])
    groups = {"all": summary.systems, "mean of categories": summary.balanced, **summary.categories}
    for category, systems in groups.items():
        for system, row in systems.items():
            for name, e in row.items():
                writer.writerow([system, category, name, e.mean, e.low, e.high, e.count, e.failed])
    return out.getvalue()


def scores_csv(scores: Scores) -> str:
    """One line per system and clip, one column per figure."""
    names = list(dict.fromkeys(name for score in scores for name in score.figures))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["system", "clip", "category", *names])
    for s in scores:
        writer.writerow([s.system, s.clip, s.category, *(s.figures.get(name, "") for name in names)])
    return out.getvalue()
