"""What curation decided about the clips of a folder: `curation.jsonl`, which `data_prep.curate` writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from wan_alpha.data.errors import DataError
from wan_alpha.data.source import numbered_lines

VERDICTS = "curation.jsonl"


class Verdict(NamedTuple):
    """Whether a clip is kept, why not, and the split it was moved to ("": it stays where it is)."""

    keep: bool
    reasons: tuple[str, ...] = ()
    split: str = ""

    @property
    def dropped(self) -> str:
        """Why the clip is left out; "" if it is kept."""
        return "" if self.keep else f"curation: {'; '.join(self.reasons)}"


def read_verdicts(root: Path) -> dict[str, Verdict]:
    """The verdict on every clip of a folder; empty if it was not curated.

    Raises:
        DataError: a line is not a verdict.
    """
    file, verdicts = root / VERDICTS, {}
    for number, line in numbered_lines(file.read_text(encoding="utf-8")) if file.exists() else ():
        try:
            said = json.loads(line)
            if not isinstance(said["key"], str) or (not said["keep"] and not said["reasons"]):
                raise ValueError(line)
            verdicts[said["key"]] = Verdict(bool(said["keep"]), tuple(said.get("reasons", ())), said.get("split", ""))
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{file}:{number}: not a verdict ({error!r}); run data_prep.curate again") from error
    return verdicts
