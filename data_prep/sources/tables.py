"""Tables of captions from other people's machines: read row by row, so that one bad row costs one row."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from wan_alpha.data.errors import DataError


class Row(NamedTuple):
    """One row: where it stands (file and line, for messages), and its cells by column."""

    where: str
    cells: dict[str, str]


def read_csv(file: Path, required: Sequence[str], problems: list[str]) -> Iterator[Row]:
    """The rows of a UTF-8 table with a header.

    Rows that are not UTF-8 or lack a required cell are named in `problems` and left out.

    Raises:
        DataError: the header lacks a required column.
    """
    # Undecodable bytes become surrogates, so that they can be found in the row where they stand.
    text = file.read_bytes().decode("utf-8-sig", errors="surrogateescape")
    reader = csv.DictReader(io.StringIO(text, newline=""))
    lacking = [name for name in required if name not in (reader.fieldnames or [])]
    if lacking:
        raise DataError(
            f"{file}: expected a UTF-8 table with the columns {', '.join(required)}; "
            f"{', '.join(lacking)} missing in {reader.fieldnames}"
        )
    try:
        for cells in reader:
            where = f"{file}:{reader.line_num}"
            whole = {name: cell for name, cell in cells.items() if isinstance(name, str) and isinstance(cell, str)}
            if any("\udc80" <= char <= "\udcff" for cell in whole.values() for char in cell):
                problems.append(f"{where}: not UTF-8; save the table as UTF-8")
            elif not all(whole.get(name) for name in required):
                problems.append(f"{where}: {' or '.join(required)} empty")
            else:
                yield Row(where, whole)
    except csv.Error as error:
        raise DataError(f"{file}:{reader.line_num}: not a table ({error}); save it again as CSV") from error
