"""One-dimensional cuts through the alpha x beta surface of a split."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

Axis = Literal["alpha", "beta"]


@dataclass(frozen=True)
class Cut:
    """A metric along one axis of the surface.

    Attributes:
        values: of alpha (or beta), ascending. metric: oIoU or mIoU there, fractions.
        at: the grid's value of the other axis that is nearest to the one asked for.
    """

    values: list[float]
    metric: list[float]
    at: float

    @property
    def peak(self) -> tuple[float, float]:
        """Where the metric is highest, the first place on ties, and how high."""
        place = int(np.argmax(self.metric))
        return self.values[place], self.metric[place]


def cut(grid: dict[str, Any], group: tuple[str, str], metric: str, axis: Axis, other: float) -> Cut:
    """The surface of a split along ``axis``, at the grid line of the other axis that is nearest to ``other``.

    Args:
        grid: what stage sweep wrote: ``alphas`` (A,), ``betas`` (B,), and surfaces (A, B) by data set and split.
        group: data set and split. metric: oiou or miou.
    """
    dataset, split = group
    surface = np.array(grid["splits"][dataset][split][metric], np.float64)
    lines = grid["betas" if axis == "alpha" else "alphas"]
    nearest = int(np.argmin(np.abs(np.array(lines) - other)))
    values = surface[:, nearest] if axis == "alpha" else surface[nearest]
    return Cut(list(grid[f"{axis}s"]), values.tolist(), float(lines[nearest]))
