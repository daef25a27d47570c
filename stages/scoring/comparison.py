"""Two choices for the same expressions, compared: paired bootstrap over images, flips, and breakdowns by what is asked.

The difference of a metric is A's less B's. Its interval is the percentile bootstrap (Efron and Tibshirani, 1993, sec. 13.3)
over IMAGES, because expressions of one image depend: as many images as there are are drawn with replacement, A and B get the
same ones, and each metric is made anew from its sums over what was drawn. The p-value is two-sided and belongs to that
interval: with d the difference in each of R resamples,

    p = min(1, max(2 (1 + min(#{d <= 0}, #{d >= 0})) / (R + 1), 2^(1 - n)))

so p = 1 where both choose alike, the least p is 2 / (R + 1), and no resample counts as no evidence. Of n images
that all say the same every resample says the same, however few they are; 2^(1 - n) is the least two-sided p of the exact sign
test of n pairs (Conover, 1999, sec. 3.4), so no p says more than that test can: above 0.05 for fewer than 6 images. A single
image is no sample: there is neither interval nor p.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.scoring.metrics import (
    FEWEST_IMAGES,
    IOU_UNITS,
    Empty,
    Outcome,
    iou_of,
    iou_units,
    resampled_sums,
    summarise,
)

Ints = NDArray[np.int64]
COMPARED = ("oiou", "miou", "p50")
TOO_FEW = "all its expressions are of one image: no interval and no p, since nothing says what other images would give"
FLIP = 0
"""The threshold of ``metrics.THRESHOLDS`` that makes a flip: IoU above 0.5."""
LENGTHS = ((1, 2), (3, 5), (6, 9), (10, 0))
"""Least and greatest number of words of each class of sentences, 0 for no greatest."""
SIZES = ("small", "medium", "large")


@dataclass(frozen=True)
class Both:
    """What A and B get for the same E expressions, and the image of each (E,)."""

    a: Outcome
    b: Outcome
    image: Ints

    def at(self, rows: NDArray[Any]) -> Both:
        return Both(self.a.at(rows), self.b.at(rows), self.image[rows])

    def counted(self, empty: Empty) -> Both:
        """Without the expressions for which A or B has no choice, where ``empty`` is ``skip``."""
        return self if empty == "count" else self.at(np.flatnonzero(self.a.decided & self.b.decided))


def two_sided_p(differences: NDArray[np.float64], images: int) -> float:
    """p of the differences found in R resamples of so many images, (R,), as above.

    >>> two_sided_p(np.array([1.0, 2.0, -1.0]), 50), two_sided_p(np.zeros(3), 50)
    (1.0, 1.0)
    >>> two_sided_p(np.ones(999), 50), two_sided_p(np.ones(999), 3)
    (0.002, 0.25)
    """
    rarer = min(int((differences <= 0).sum()), int((differences >= 0).sum()))
    return min(1.0, max(2 * (1 + rarer) / (len(differences) + 1), 2.0 ** (1 - images)))


def compared(both: Both, resamples: int, seed: int, level: float = 0.95) -> dict[str, Any]:
    """``n``, ``images`` and, for each of ``COMPARED``: ``a``, ``b``, ``difference``, ``ci`` as [low, high] and ``p``; all but p
    fractions.

    ``images`` is how many images the n expressions are of. With n = 0 the values are None. Without resamples, or with fewer
    images than `FEWEST_IMAGES`, there is neither ``ci`` nor ``p``.
    """
    first, second = summarise(both.a), summarise(both.b)
    drawn, images = _differences(both, resamples, seed)
    found: dict[str, Any] = {"n": first["n"], "images": images}
    for name in COMPARED:
        a, b = first[name], second[name]
        found[name] = {
            "a": a,
            "b": b,
            "difference": None if a is None else a - b,
            **_interval(drawn, name, images, level),
        }
    return found


def versus(both: Both, resamples: int, seed: int, level: float = 0.95) -> dict[str, Any]:
    """A's mIoU less B's as ``miou``, its interval ``miou_ci`` and ``p``; {} where ``compared`` has neither."""
    drawn, images = _differences(both, resamples, seed, ("miou",))
    interval = _interval(drawn, "miou", images, level)
    if not interval:
        return {}
    return {
        "miou": float(_units(both).sum()) / IOU_UNITS / len(both.image),
        "miou_ci": interval["ci"],
        "p": interval["p"],
    }


def _units(both: Both) -> Ints:
    """A's IoU less B's in whole units (E,), so that sums are exact in any order."""
    return iou_units(both.a.iou) - iou_units(both.b.iou)


def _differences(
    both: Both, resamples: int, seed: int, names: Sequence[str] = COMPARED
) -> tuple[dict[str, NDArray[np.float64]], int]:
    """The difference of each metric in every resample, (resamples,), {} without resamples or with too few images; and their
    number."""
    images, owner = np.unique(both.image, return_inverse=True)
    if not resamples or len(images) < FEWEST_IMAGES:
        return {}, len(images)
    columns: list[NDArray[Any]] = [np.ones(len(owner))]
    if "oiou" in names:
        columns += [both.a.intersection, both.a.union, both.b.intersection, both.b.union]
    if "miou" in names:
        columns += [_units(both)]
    if "p50" in names:
        columns += [both.a.hits[:, FLIP] - both.b.hits[:, FLIP]]
    sums = np.stack([np.bincount(owner, weights=column, minlength=len(images)) for column in columns], axis=1)
    drawn = iter(resampled_sums(sums, resamples, seed).T)
    count = next(drawn)
    found = {}
    if "oiou" in names:
        found["oiou"] = iou_of(next(drawn), next(drawn)) - iou_of(next(drawn), next(drawn))
    if "miou" in names:
        found["miou"] = next(drawn) / IOU_UNITS / count
    if "p50" in names:
        found["p50"] = next(drawn) / count
    return found, len(images)


def _interval(drawn: Mapping[str, NDArray[np.float64]], name: str, images: int, level: float) -> dict[str, Any]:
    if name not in drawn:
        return {}
    tail = 100 * (1 - level) / 2
    return {"ci": np.percentile(drawn[name], [tail, 100 - tail]).tolist(), "p": two_sided_p(drawn[name], images)}


def flips(both: Both) -> tuple[Ints, Ints]:
    """The rows that A gets at IoU above 0.5 and B does not, and the reverse."""
    a, b = both.a.hits[:, FLIP] > 0, both.b.hits[:, FLIP] > 0
    return np.flatnonzero(a & ~b), np.flatnonzero(b & ~a)


def breakdown(both: Both, classes: Mapping[str, Ints], resamples: int, seed: int) -> list[dict[str, Any]]:
    """For each class, rows of ``both``: its name as ``value``, ``n`` and the mIoU as ``compared`` has it.

    A class is compared as if it were all there is: its own images are drawn.
    """
    lines = []
    for value, rows in classes.items():
        found = compared(both.at(rows), resamples, seed)
        lines.append({"value": value, "n": found["n"], **found["miou"]})
    return lines


def by_value(values: Sequence[str]) -> dict[str, Ints]:
    """Value -> its rows, the most frequent first; rows without one ("") are in no class.

    >>> by_value(["dog", "cat", "dog", ""])
    {'dog': array([0, 2]), 'cat': array([1])}
    """
    return _most_frequent_first((value, row) for row, value in enumerate(values) if value)


def by_size(share: NDArray[np.float64]) -> dict[str, Ints]:
    """Terciles of the target's share of its image (E,): small, medium and large, with their bounds in percent.

    Each has a third of the expressions, so it can be told from zero wherever the whole can. COCO's bounds (32 and 96 pixels
    squared) would call nearly every target of RefCOCO large.
    """
    if not len(share):
        return {}
    low, high = np.quantile(share, [1 / 3, 2 / 3])
    place = (share > low).astype(int) + (share > high)
    said = (f"up to {100 * low:.1f} %", f"up to {100 * high:.1f} %", f"above {100 * high:.1f} %")
    return {
        f"{name} ({bound})": rows
        for number, (name, bound) in enumerate(zip(SIZES, said, strict=True))
        if len(rows := np.flatnonzero(place == number))
    }


def by_length(sentences: Sequence[str]) -> dict[str, Ints]:
    """Sentences by their number of words, in the classes of ``LENGTHS``.

    >>> by_length(["ball", "the red ball", "left one"])
    {'1-2 words': array([0, 2]), '3-5 words': array([1])}
    """
    words = np.array([len(sentence.split()) for sentence in sentences], np.int64)
    classes = {}
    for least, most in LENGTHS:
        rows = np.flatnonzero((words >= least) & ((words <= most) if most else True))
        if len(rows):
            classes[f"{least}-{most} words" if most else f"{least} words or more"] = rows
    return classes


def by_words(lists: Sequence[str]) -> dict[str, Ints]:
    """Rows without a word, with any, and with each word, the most frequent first; a row may be in several of the last.

    Args:
        lists: a JSON list of words for each expression (columns ``position_words`` and ``relation_words`` of parse).

    >>> by_words(['["left"]', "[]", '["left", "top"]'])
    {'none': array([1]), 'any': array([0, 2]), 'left': array([0, 2]), 'top': array([2])}
    """
    known = {text: [str(word).lower() for word in json.loads(text)] for text in set(lists)}  # few among many rows
    words = [known[text] for text in lists]
    ends = {"none": [row for row, own in enumerate(words) if not own], "any": [r for r, own in enumerate(words) if own]}
    classes = {name: np.array(rows, np.int64) for name, rows in ends.items() if rows}
    each = _most_frequent_first((word, row) for row, own in enumerate(words) for word in dict.fromkeys(own))
    return classes | {f"“{word}”" if word in ends else word: rows for word, rows in each.items()}


def _most_frequent_first(members: Iterable[tuple[str, int]]) -> dict[str, Ints]:
    rows: dict[str, list[int]] = {}
    for value, row in members:
        rows.setdefault(value, []).append(row)
    return {
        value: np.array(own, np.int64) for value, own in sorted(rows.items(), key=lambda item: (-len(item[1]), item[0]))
    }
