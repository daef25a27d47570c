"""The columns of the pair table that are means of heat maps: ``heat.<kind>`` and ``heat.<kind>.inside_minus_outside``."""

from __future__ import annotations

from typing import Literal, get_args

HeatPooling = Literal["inside", "inside_minus_outside"]
"""The mean of a map inside the mask, or that less the mean outside."""
POOLINGS: tuple[HeatPooling, ...] = get_args(HeatPooling)


def heat_name(kind: str, pooling: str) -> str:
    """The column of a kind of heat map, pooled in one of `POOLINGS`."""
    return f"heat.{kind}" if pooling == "inside" else f"heat.{kind}.{pooling}"
