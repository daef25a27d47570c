"""Scores of proposals for texts other than an expression's two: phrases of other objects, the mean sentence of a group.

The visual feature is that of the base rule, f = alpha f_G + (1 - alpha) f_L (``view: mixed``), or one view.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stages.scoring.fusion import Floats
from stages.scoring.products import Ints, ranges
from stages.scoring.table import LOCAL, Columns, PairTable, Scoring
from store.ragged import Offsets, offsets_of

MIXED = "mixed"
_TINY = float(np.finfo(np.float32).tiny)


def columns_of(pairs: PairTable) -> Columns:
    """The columns of an unfiltered table."""
    if pairs.columns is None:
        raise ValueError("expected an unfiltered table, got one that a filter has cut")
    return pairs.columns


@dataclass(frozen=True)
class Visual:
    """A visual feature f of every pair as a weighted sum of views.

    Attributes:
        shares: label of a view -> its weight for each pair (P,). inverse: 1 / |f|, 0 where f has no length; 1 for the mixed
            feature of an encoder whose scores are not cosines (P,).
    """

    shares: dict[str, Floats]
    inverse: Floats

    def times(self, dot: Callable[[str], Floats], pair: Ints | slice = slice(None)) -> Floats:
        """f.t / |f|, float64, from each view's product ``dot(label)``, for the pairs ``pair``."""
        total: Floats = sum(share[pair] * dot(view) for view, share in self.shares.items()) * self.inverse[pair]
        return total


def visual(pairs: PairTable, scoring: Scoring, view: str) -> Visual:
    """The feature ``view``: a label, or ``mixed``.

    Raises:
        MissingViewError: the table does not hold it.
    """
    columns = columns_of(pairs)
    if view != MIXED:
        squares = columns.view_product(view, view).astype(np.float64)
        return Visual({view: np.ones(len(squares))}, _inverse(squares))
    alpha = np.repeat(pairs.alphas(scoring), np.diff(pairs.offsets))
    rest, dots = 1 - alpha, pairs.dots
    squares = alpha**2 * dots.global_norm + 2 * alpha * rest * dots.cross_norm + rest**2 * dots.local_norm
    cosine = dots.score_rule == "cosine"
    return Visual({f"global.k{scoring.k}": alpha, LOCAL: rest}, _inverse(squares) if cosine else np.ones(len(squares)))


def _inverse(squares: Floats) -> Floats:
    inverse: Floats = np.where(squares > 0, 1 / np.sqrt(np.maximum(squares, _TINY)), 0)
    return inverse


@dataclass(frozen=True)
class Others:
    """The products of the other noun phrases of all expressions with the proposals of their images.

    Attributes:
        phrases: phrases of each expression (E+1,). offsets: products of each phrase (X+1,). pair: the pair of each (Y,).
        scores: 100 cos(f, q) (Y,), 0 for a phrase without a vector. usable: which phrases have one (X,).
    """

    phrases: Offsets
    offsets: Offsets
    pair: NDArray[np.int64]
    scores: Floats
    usable: NDArray[np.bool_]

    def mean(self, pairs: int) -> tuple[Floats, NDArray[np.bool_]]:
        """Of every pair the mean score over the expression's phrases, 0 without any, and whether it has any, both (P,)."""
        of_phrase = np.repeat(self.usable, np.diff(self.offsets)).astype(np.float64)
        number = np.bincount(self.pair, of_phrase, minlength=pairs)
        total = np.bincount(self.pair, of_phrase * self.scores, minlength=pairs)
        mean: Floats = total / np.maximum(number, 1)
        return mean, number > 0


def others(pairs: PairTable, scoring: Scoring, view: str) -> Others:
    """100 cos(f, q) of every other noun phrase q and proposal; ``view`` as in ``visual``."""
    columns, feature = columns_of(pairs), visual(pairs, scoring, view)
    phrases = columns["other_offsets"]
    number, counts = np.diff(phrases), np.diff(pairs.offsets)
    each = np.repeat(counts, number)
    pair = ranges(np.repeat(pairs.offsets[:-1], number), each)
    squares = columns["other_product"].astype(np.float64)
    inverse = np.repeat(_inverse(squares), each)
    scores = 100 * feature.times(columns.other_dot, pair) * inverse
    return Others(phrases, offsets_of(each), pair, scores, squares > 0)


def other_sum_scores(pairs: PairTable, scoring: Scoring, view: str) -> tuple[Floats, NDArray[np.bool_]]:
    """100 cos(f, sum of the other phrases' vectors) of every pair, and whether it has any, both (P,): HybridGL's S-."""
    columns, feature = columns_of(pairs), visual(pairs, scoring, view)
    number, counts = np.diff(columns["other_offsets"]), np.diff(pairs.offsets)
    pair = ranges(np.repeat(pairs.offsets[:-1], number), np.repeat(counts, number))
    squares = columns["other_sum_product"].astype(np.float64)
    total = np.bincount(pair, feature.times(columns.other_dot, pair), minlength=len(pairs.union)).astype(np.float64)
    scores: Floats = 100 * total * np.repeat(_inverse(squares), counts)
    return scores, np.repeat(squares > 0, counts)
