"""Labels that need no eye: speed and quality, from measures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class LabelLimits:
    """From where a label applies; units as in `data_prep.measures.names.MEASURES`.

    Attributes:
        slow: clips with less flow are slow.
        fast: clips with more flow are fast.
        blurred: clips with less sharpness are blurred.
        greyish: clips with more greyness are greyish.
    """

    slow: float = 0.02
    fast: float = 0.5
    blurred: float = 0.4
    greyish: float = 0.9


def measured_labels(measures: Mapping[str, float | None], limits: LabelLimits | None = None) -> dict[str, str]:
    """Labels that follow from the measures of a clip; what was not measured, or is ordinary, gets none.

    Args:
        measures: by name, as `data_prep.curate` writes them: `flow`, `sharpness` and `greyness` are looked at.
        limits: from where a label applies.

    Returns:
        "speed": "slow" or "fast"; "quality": "blurred" or, if it is not, "greyish".
    """
    limits = limits or LabelLimits()
    labels = {}
    if (flow := measures.get("flow")) is not None and (flow < limits.slow or flow > limits.fast):
        labels["speed"] = "slow" if flow < limits.slow else "fast"
    if (sharpness := measures.get("sharpness")) is not None and sharpness < limits.blurred:
        labels["quality"] = "blurred"
    elif (greyness := measures.get("greyness")) is not None and greyness > limits.greyish:
        labels["quality"] = "greyish"
    return labels
