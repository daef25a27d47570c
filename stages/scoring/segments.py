"""Arithmetic over the pairs of each expression: rows of unequal length as one flat array (``store.ragged``)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from stages.scoring.fusion import Floats
from store.ragged import Offsets

Doubles = NDArray[np.float64]


def _spread(per_filled: Doubles, offsets: Offsets) -> Doubles:
    return np.repeat(per_filled, np.diff(offsets)[np.diff(offsets) > 0])


def _starts(offsets: Offsets) -> Offsets:
    return offsets[:-1][np.diff(offsets) > 0]


def log_softmax(scores: Floats, offsets: Offsets) -> Doubles:
    """The logarithm of each segment's softmax, float64 (P,); -inf stays -inf, also where a segment has nothing else.

    >>> np.exp(log_softmax(np.array([0.0, 0.0, -np.inf, 5.0]), np.array([0, 3, 3, 4]))).round(3).tolist()
    [0.5, 0.5, 0.0, 1.0]
    """
    values = np.asarray(scores, np.float64)
    if not len(values):
        return values
    starts = _starts(offsets)
    top = np.maximum.reduceat(values, starts)
    shifted = values - _spread(np.where(np.isfinite(top), top, 0), offsets)
    total = np.add.reduceat(np.exp(shifted), starts)
    shifted -= _spread(np.log(np.where(total > 0, total, 1)), offsets)
    return shifted


def softmax(scores: Floats, offsets: Offsets) -> Doubles:
    """Each segment's softmax, float64 (P,); 0 for -inf."""
    probabilities: Doubles = np.exp(log_softmax(scores, offsets))
    return probabilities


def ranked_below(scores: Floats, rejected: NDArray[np.bool_], offsets: Offsets) -> Doubles:
    """``scores`` with the ``rejected`` pairs of each segment moved below all its others, in their own order, float64 (P,).

    So a rejected proposal is still chosen where a filter takes all others away. -inf stays -inf.
    """
    values = np.array(scores, np.float64)
    if not len(values):
        return values
    finite, starts = np.isfinite(values), _starts(offsets)
    greatest = np.maximum.reduceat(np.where(finite, values, -np.inf), starts)
    least = np.minimum.reduceat(np.where(finite, values, np.inf), starts)
    span = np.where(greatest >= least, greatest - least, 0) + 1
    values[rejected] -= _spread(span, offsets)[rejected]
    return values
