"""What the schemas of all entry points share: number types, and the base."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Gt, Le
from pydantic import ConfigDict, Strict

Count = Annotated[int, Strict(), Ge(1)]
Natural = Annotated[int, Strict(), Ge(0)]
Seed = Annotated[int, Strict(), Ge(0), Le(2**63 - 1)]  # what a random generator of torch takes
Share = Annotated[float, Ge(0), Le(1)]
Positive = Annotated[float, Gt(0)]
NonNegative = Annotated[float, Ge(0)]

STRICT = ConfigDict(extra="forbid", strict=False)  # "3" is 3, as on a command line; an unknown key is an error


@dataclass
class BaseConfig:
    """The Wan base."""

    __pydantic_config__ = STRICT
    name: str  # for people and logs
    path: str  # tiny, a known name, a hub id or a local path
