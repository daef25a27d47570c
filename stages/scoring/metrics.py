"""Metrics of referring segmentation, one entry per EXPRESSION, as plain functions over arrays.

oIoU = sum of intersections / sum of unions; mIoU = mean of IoU; P@X = share of expressions with IoU > X; union 0 gives
IoU 0, as in the released code (paper sec. 4.1). All are fractions.

The mean of IoUs adds them as whole multiples of 2^-40: such sums are exact, so they depend on no order, and a surface that
adds only what changes from one grid point to the next gets the same bits as a sum made anew (``stages.scoring.surface``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from store.document import RUN
from store.errors import DataError
from store.ragged import Offsets

Empty = Literal["count", "skip"]
THRESHOLDS = {"p50": 0.5, "p70": 0.7, "p90": 0.9}
IOU_UNITS = 2.0**40
_KEPT = 2**26  # counts of drawn images that are held at once, 512 MiB
MOST_EXPRESSIONS = 2**22  # of one sum: int64 holds twice as many whole IoUs
FEWEST_IMAGES = 2
"""Of which the bootstrap draws: a single image is drawn every time, and its interval would have no width."""


@dataclass(frozen=True)
class Outcome:
    """What a rule gets for each expression; float because the random rule holds expectations.

    Attributes:
        intersection, union: pixels (E,). iou: (E,). hits: IoU above each threshold (E, 3), 0 or 1 (or a probability).
        decided: whether the rule could choose a proposal at all (E,).
    """

    intersection: NDArray[np.float64]
    union: NDArray[np.float64]
    iou: NDArray[np.float64]
    hits: NDArray[np.float64]
    decided: NDArray[np.bool_]

    def at(self, rows: NDArray[Any]) -> Outcome:
        return Outcome(self.intersection[rows], self.union[rows], self.iou[rows], self.hits[rows], self.decided[rows])


def iou_of(intersection: NDArray[Any], union: NDArray[Any]) -> NDArray[np.float64]:
    """Intersection over union, 0 where the union is 0; any shape, float64.

    >>> iou_of(np.array([1, 0]), np.array([4, 0]))
    array([0.25, 0.  ])
    """
    iou: NDArray[np.float64] = np.zeros(np.shape(union))
    np.divide(intersection, union, out=iou, where=np.asarray(union) > 0)
    return iou


def iou_units(iou: NDArray[np.float64]) -> NDArray[np.int64]:
    """IoU rounded to multiples of 2^-40, int64: what sums of IoU are made of."""
    units: NDArray[np.int64] = np.rint(iou * IOU_UNITS).astype(np.int64)
    return units


def ratios(
    inter: NDArray[Any], union: NDArray[Any], units: NDArray[np.int64], n: int
) -> dict[str, NDArray[np.float64]]:
    """oIoU and mIoU, any shape, from sums over n expressions: of intersections, unions and ``iou_units``; 0 for n = 0.

    Raises:
        DataError: more expressions than a sum can hold.
    """
    if n > MOST_EXPRESSIONS:
        raise DataError(
            f"metrics: expected at most {MOST_EXPRESSIONS:,} expressions of one split, got {n:,}; divide it"
        )
    return {"oiou": iou_of(inter, union), "miou": units / IOU_UNITS / max(n, 1)}


def _hits(iou: NDArray[np.float64]) -> NDArray[np.float64]:
    return (iou[:, None] > np.array(list(THRESHOLDS.values()))).astype(np.float64)


def outcome_of_choice(
    chosen: NDArray[np.int64],
    offsets: Offsets,
    intersection: NDArray[np.int64],
    union: NDArray[np.int64],
    area: NDArray[np.int64],
) -> Outcome:
    """The outcome of choosing pair ``chosen[e]`` of each expression's pairs.

    Args:
        chosen: position among the expression's pairs (E,), -1 for none: then intersection 0, union |ground truth|.
        offsets: (E+1,). intersection, union: pixels (P,). area: ground-truth pixels (E,).
    """
    decided = chosen >= 0
    inter = np.zeros(len(chosen), np.int64)
    uni = area.astype(np.int64)
    rows = (offsets[:-1] + chosen)[decided]
    inter[decided], uni[decided] = intersection[rows], union[rows]
    iou = iou_of(inter, uni)
    return Outcome(inter.astype(np.float64), uni.astype(np.float64), iou, _hits(iou), decided)


def outcome_of_random(
    offsets: Offsets, intersection: NDArray[np.int64], union: NDArray[np.int64], area: NDArray[np.int64]
) -> Outcome:
    """The expected outcome of choosing uniformly among an expression's proposals: exact, no seed.

    >>> two = outcome_of_random(np.array([0, 2]), np.array([4, 0]), np.array([4, 8]), np.array([4]))
    >>> two.iou, two.intersection, two.union
    (array([0.5]), array([2.]), array([6.]))
    """
    counts = np.diff(offsets)
    filled = np.flatnonzero(counts)
    iou = iou_of(intersection, union)

    def mean(values: NDArray[Any]) -> NDArray[np.float64]:
        means = np.zeros(len(counts))
        if len(filled):
            means[filled] = np.add.reduceat(values, offsets[filled], dtype=np.float64) / counts[filled]
        return means

    hits = np.stack([mean(iou > threshold) for threshold in THRESHOLDS.values()], axis=1)
    uni = np.where(counts > 0, mean(union), area)
    return Outcome(mean(intersection), uni, mean(iou), hits, counts > 0)


def summarise(outcome: Outcome, empty: Empty = "count") -> dict[str, Any]:
    """oiou, miou, p50, p70, p90 (fractions) and n, the denominator.

    Args:
        empty: ``count`` keeps expressions without a choice as IoU 0; ``skip`` leaves them out of both sums, as the
            released code does. With n = 0 every value is None.

    >>> chosen, offsets = np.array([1, -1]), np.array([0, 2, 2])  # the second expression has no proposal
    >>> outcome = outcome_of_choice(chosen, offsets, np.array([0, 6]), np.array([9, 8]), np.array([8, 4]))
    >>> summarise(outcome)
    {'oiou': 0.5, 'miou': 0.375, 'p50': 0.5, 'p70': 0.5, 'p90': 0.0, 'n': 2}
    >>> summarise(outcome, "skip")["miou"]
    0.75
    """
    kept = outcome if empty == "count" else outcome.at(outcome.decided)
    n = len(kept.iou)
    if not n:
        return {"oiou": None, "miou": None, **dict.fromkeys(THRESHOLDS), "n": 0}
    sums = kept.intersection.sum(), kept.union.sum(), iou_units(kept.iou).sum()
    return {
        **{name: float(value) for name, value in ratios(*sums, n).items()},
        **{name: float(value) for name, value in zip(THRESHOLDS, kept.hits.mean(0), strict=True)},
        "n": n,
    }


def bootstrap(
    outcome: Outcome, image: NDArray[np.int64], resamples: int, seed: int, level: float = 0.95
) -> dict[str, list[float]]:
    """Percentile confidence intervals of oIoU and mIoU by resampling IMAGES (expressions of one image depend).

    Args:
        outcome: of E expressions, under ``count``. image: the image of each (E,).

    Returns:
        ``oiou_ci`` and ``miou_ci`` as [low, high]; empty when there is nothing to resample: fewer than `FEWEST_IMAGES`.
    """
    images, owner = np.unique(image, return_inverse=True)
    if len(images) < FEWEST_IMAGES or not resamples:
        return {}
    columns = (outcome.intersection, outcome.union, outcome.iou, np.ones(len(owner)))
    sums = np.stack([np.bincount(owner, weights=c, minlength=len(images)) for c in columns], axis=1)
    inter, uni, iou, count = resampled_sums(sums, resamples, seed).T
    tail = 100 * (1 - level) / 2
    return {
        "oiou_ci": np.percentile(iou_of(inter, uni), [tail, 100 - tail]).tolist(),
        "miou_ci": np.percentile(iou_of(iou, count), [tail, 100 - tail]).tolist(),
    }


def resampled_sums(sums: NDArray[Any], resamples: int, seed: int) -> NDArray[np.float64]:
    """Sums over as many images as there are, drawn with replacement, for each resample: (resamples, C).

    The images drawn depend on their number and ``seed`` alone: two rules, or two columns, get the same ones.

    Args:
        sums: what each image adds to C sums, (images, C).
    """
    images = len(sums)
    if images * resamples <= _KEPT:
        drawn: NDArray[np.float64] = _resampled(images, resamples, seed) @ sums
        return drawn
    rng = np.random.default_rng(seed)
    block = max(1, _KEPT // 16 // images)
    return np.concatenate(
        [_drawn(images, min(block, resamples - start), rng) @ sums for start in range(0, resamples, block)]
    )


@lru_cache(maxsize=1)
def _resampled(images: int, resamples: int, seed: int) -> NDArray[np.float64]:
    """How often each image is drawn, (resamples, images): kept for the next rule of the same split."""
    return _drawn(images, resamples, np.random.default_rng(seed))


def _drawn(images: int, resamples: int, rng: np.random.Generator) -> NDArray[np.float64]:
    weights = np.empty((resamples, images))
    for row in weights:  # a fraction of what ``rng.multinomial`` takes, which draws from every image in turn
        row[:] = np.bincount(rng.integers(0, images, images, dtype=np.int32), minlength=images)
    return weights


def metrics_by_encoder(document: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """A metrics file taken apart: "" -> data set -> split -> rule of the main encoder, and the others' by their names."""
    content = {name: value for name, value in document.items() if name != RUN}
    others = [name for name in document[RUN].get("encoders", ()) if name in content]
    main = {name: value for name, value in content.items() if name not in others}
    return {"": main, **{name: content[name] for name in others}}
