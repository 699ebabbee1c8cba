"""Systems side by side: the same figures as a table for terminals and for Markdown."""

from collections.abc import Mapping

from rich import box
from rich.table import Table

Rows = Mapping[str, Mapping[str, float]]

NOTE = "PSNR in dB and SSIM: higher is better; LPIPS: lower is better"


def comparison_table(rows: Rows, title: str | None = None) -> Table:
    """For terminals, within 80 columns for nine figures.

    Args:
        rows: system -> figure (`alpha/psnr`, `soft/ssim`, ...) -> value; systems may lack figures.
        title: printed above.
    """
    columns = _columns(rows)
    table = Table(title=title, caption=NOTE, box=box.SIMPLE_HEAD, padding=0)
    table.add_column("", no_wrap=True)
    for column in columns:
        table.add_column(_heading(column).replace(" ", "\n", 1), justify="right", no_wrap=True)
    for name, figures in rows.items():
        table.add_row(name, *(_cell(column, figures) for column in columns))
    return table


def markdown_table(rows: Rows) -> str:
    """For reports: the same as `comparison_table`, in Markdown, ending in a newline."""
    columns = _columns(rows)
    lines = [
        ["", *(f"{_heading(column)} {'↓' if 'lpips' in column else '↑'}" for column in columns)],
        ["---", *("---:" for _ in columns)],
        *([name, *(_cell(column, figures) for column in columns)] for name, figures in rows.items()),
    ]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _columns(rows: Rows) -> list[str]:
    """All figures of all systems, in order of appearance."""
    return list(dict.fromkeys(column for figures in rows.values() for column in figures))


def _heading(column: str) -> str:
    """`alpha/psnr` -> `alpha PSNR`."""
    picture, _, metric = column.rpartition("/")
    return f"{picture} {metric.upper()}".strip()


def _cell(column: str, figures: Mapping[str, float]) -> str:
    if column not in figures:
        return "–"
    return f"{figures[column]:.2f}" if column.endswith("psnr") else f"{figures[column]:.3f}"
