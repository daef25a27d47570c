"""One line of ``glimpse verify``, and the ways to measure an error."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.golden.folder import Absent, Arrays

Measure: TypeAlias = Callable[[], "float | tuple[float, str]"]
SHAPES_DIFFER = float("inf")


@dataclass(frozen=True)
class Check:
    """The largest error of a quantity against its tolerance; ``error`` None where the folder does not have it."""

    part: str
    quantity: str
    error: float | None
    tolerance: float = 0.0
    note: str = ""

    @property
    def failed(self) -> bool:
        """Neither within the tolerance nor absent; an error that is no number fails."""
        return self.error is not None and not self.error <= self.tolerance

    @property
    def verdict(self) -> str:
        return "not in this folder" if self.error is None else "FAIL" if self.failed else "pass"


def check(part: str, quantity: str, tolerance: float, measure: Measure) -> Check:
    """Measure, which gives the error or (error, note). What the folder lacks makes a check without an error."""
    try:
        measured = measure()
    except Absent as lost:
        return Check(part, quantity, None, tolerance, str(lost))
    error, note = measured if isinstance(measured, tuple) else (measured, "")
    return Check(part, quantity, float(error), tolerance, note)


def compare(
    part: str,
    quantity: str,
    tolerance: float,
    distance: Callable[[Any, NDArray[Any]], float],
    got: object,
    golden: Arrays,
    key: str,
) -> Check:
    """`check` of ``distance`` between ours and the array ``key`` of a golden file."""
    return check(part, quantity, tolerance, lambda: distance(got, golden[key]))


def largest(got: ArrayLike, expected: ArrayLike) -> float:
    """The largest absolute difference; infinite where shapes differ, 0 for empty arrays."""
    a, b = np.asarray(got, np.float64), np.asarray(expected, np.float64)
    return float(np.abs(a - b).max(initial=0.0)) if a.shape == b.shape else SHAPES_DIFFER


def relative_l2(got: NDArray[Any], expected: NDArray[Any]) -> float:
    """The largest |got - expected| / |expected| of any row of (N, D); infinite where shapes differ."""
    if got.shape != expected.shape:
        return SHAPES_DIFFER
    a, b = got.astype(np.float64), expected.astype(np.float64)
    tiny = np.finfo(np.float32).tiny
    return float((np.linalg.norm(a - b, axis=1) / np.maximum(np.linalg.norm(b, axis=1), tiny)).max(initial=0.0))


def unequal(got: Sequence[Any] | NDArray[Any], expected: Sequence[Any] | NDArray[Any]) -> int:
    """How many entries differ, those that only one side has among them."""
    return sum(bool(a != b) for a, b in zip(got, expected)) + abs(len(got) - len(expected))


def sampled(values: NDArray[Any], count: int) -> NDArray[np.float64]:
    """``count`` values of the flattened array, evenly spread from the first to the last, as the golden files have."""
    return values.ravel()[np.linspace(0, values.size - 1, count).astype(np.int64)].astype(np.float64)


def statistics(values: NDArray[Any]) -> list[float]:
    """Mean, standard deviation, minimum, maximum, in float64."""
    wide = values.astype(np.float64)
    return [float(wide.mean()), float(wide.std()), float(wide.min()), float(wide.max())]
