"""The result of a benchmark, and its timing: plain work and ours alternate in one process."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmarks.roofline import Work


@dataclass(frozen=True)
class Result:
    """A figure and that of a plain version of the same work in the same run.

    Attributes:
        name: as in the list of targets. unit: of ``plain`` and ``ours``, "s" by default.
        plain: None where there is no plain version (a limit in seconds alone).
        error: the largest difference of the results (relative, unless ``note`` says otherwise), None where none is defined.
        at_least: target for plain / ours. at_most: target for ``ours``. One of the two, or none.
        stage: the pipeline's stage that does this work, where there is one. work: what ours must at least do.
    """

    name: str
    plain: float | None
    ours: float
    unit: str = "s"
    error: float | None = None
    at_least: float | None = None
    at_most: float | None = None
    note: str = ""
    stage: str = ""
    work: Work | None = None

    @property
    def ratio(self) -> float | None:
        return None if self.plain is None else self.plain / self.ours

    @property
    def target(self) -> str:
        if self.at_least is not None:
            return f"ratio >= {self.at_least:g}"
        return "" if self.at_most is None else f"ours <= {self.at_most:g} {self.unit}"

    @property
    def met(self) -> bool | None:
        """Whether the target was reached; None where there is none."""
        if self.at_least is not None:
            return self.ratio is not None and self.ratio >= self.at_least
        return None if self.at_most is None else self.ours <= self.at_most

    def row(self) -> dict[str, Any]:
        """The form of benchmarks/results.json."""
        names = ("name", "stage", "plain", "ours", "unit", "ratio", "error", "target", "met", "note")
        roofline = None if self.work is None else self.work.row(self.ours)
        return {**{name: getattr(self, name) for name in names}, "roofline": roofline}


def medians(*works: Callable[[], object], repeats: int = 5, warm_up: bool = True) -> list[float]:
    """Median wall seconds of each of ``works``, run in turn so that a slow phase of the machine meets all alike."""
    if warm_up:
        for work in works:
            work()
    times: list[list[float]] = [[] for _ in works]
    for _ in range(repeats):
        for work, own in zip(works, times, strict=True):
            start = time.perf_counter()
            work()
            own.append(time.perf_counter() - start)
    return [statistics.median(own) for own in times]
