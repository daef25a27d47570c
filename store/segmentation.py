"""Masks as COCO run-length encodings (pycocotools): bytes on disk, bool (N,H,W) in memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

Rle = dict[str, object]
_AT_ONCE = 255


def as_rle(counts: bytes, height: int, width: int) -> Rle:
    """The pycocotools form of stored counts."""
    return {"size": [int(height), int(width)], "counts": counts}


def encode(masks: NDArray[np.bool_]) -> list[bytes]:
    """Counts of masks bool (N,H,W); [] for N = 0."""
    if not len(masks):
        return []
    columns = np.asfortranarray(masks.transpose(1, 2, 0).astype(np.uint8))
    return [rle["counts"] for rle in coco.encode(columns)]


def decode(counts: Iterable[bytes], height: int, width: int) -> NDArray[np.bool_]:
    """Masks bool (N,H,W) of stored counts; (0,H,W) for none. Only the columns that a mask reaches are written."""
    rows = list(counts)
    masks = np.zeros((len(rows), height, width), np.bool_)
    mask, start, last = _inside(rows)
    for row, (first, stop) in enumerate(pairwise(np.searchsorted(mask, np.arange(len(rows) + 1)).tolist())):
        if first == stop:
            continue
        left, right = int(start[first]) // height, int(last[stop - 1]) // height + 1
        steps = np.zeros((right - left) * height + 1, np.int8)
        steps[start[first:stop] - left * height] = 1
        steps[last[first:stop] + 1 - left * height] -= 1  # where two runs touch, nothing changes
        inside = np.add.accumulate(steps[:-1], dtype=np.int8).view(np.bool_)
        masks[row, :, left:right] = inside.reshape(right - left, height).T
    return masks


def areas(counts: Iterable[bytes], height: int, width: int) -> NDArray[np.int64]:
    """Areas int64 (N,) in pixels."""
    return areas_of([as_rle(c, height, width) for c in counts])


def areas_of(rles: Sequence[Rle]) -> NDArray[np.int64]:
    """Areas int64 (N,) in pixels of masks in pycocotools' form, which counts at most 255 at once under numpy 2."""
    blocks = [coco.area(list(rles[start : start + _AT_ONCE])) for start in range(0, len(rles), _AT_ONCE)]
    return np.concatenate([np.zeros(0, np.int64), *blocks]).astype(np.int64)


def occupied(counts: Sequence[bytes], height: int, width: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which columns, bool (N,W), and which rows, bool (N,H), of each mask have a pixel; from its runs, no mask is decoded.

    RLE goes down the columns. A run within one column occupies its own rows; one that goes on into the next column two
    stretches, down to the bottom and from the top; one that has a whole column between two others all rows.
    """
    mask, start, last = _inside(counts)
    (first_column, top), (last_column, bottom) = np.divmod(start, height), np.divmod(last, height)
    crosses, fills = last_column > first_column, last_column > first_column + 1
    columns = _covered(len(counts), width, mask, first_column, last_column)
    rows = _covered(len(counts), height, mask, np.where(fills, 0, top), np.where(crosses, height - 1, bottom))
    rows |= _covered(len(counts), height, mask[crosses], np.zeros_like(bottom[crosses]), bottom[crosses])
    return columns, rows


def column_counts(counts: Sequence[bytes], height: int, width: int) -> NDArray[np.int64]:
    """How many pixels of each mask lie in each column, int64 (N, W); from its runs, no mask is decoded.

    A run adds, to the pixels before each column's end, its part before that end: the first and last column in part, those
    between whole.
    """
    mask, start, last = _inside(counts)
    (first, top), (final, bottom) = np.divmod(start, height), np.divmod(last, height)
    steps = np.zeros((len(counts), width + 1), np.int64)
    np.add.at(steps, (mask, first), height)  # from its first column on a run is as if whole ...
    np.add.at(steps, (mask, final + 1), -height)
    whole = np.cumsum(steps, axis=1)[:, :width]
    np.add.at(whole, (mask, first), -top)  # ... less what lies above its first and below its last pixel
    np.add.at(whole, (mask, final), bottom + 1 - height)
    return whole


def row_counts(counts: Sequence[bytes], height: int, width: int) -> NDArray[np.int64]:
    """How many pixels of each mask lie in each row, int64 (N, H); from its runs, no mask is decoded.

    A run that goes through c column ends covers all rows c times, and those from its top down to its bottom once more or,
    where its bottom is above its top, all but those between.
    """
    mask, start, last = _inside(counts)
    (first, top), (final, bottom) = np.divmod(start, height), np.divmod(last, height)
    steps = np.zeros((len(counts), height + 1), np.int64)
    np.add.at(steps[:, 0], mask, final - first)
    np.add.at(steps, (mask, top), 1)
    np.add.at(steps, (mask, bottom + 1), -1)
    return np.cumsum(steps, axis=1)[:, :height]


def _inside(counts: Sequence[bytes]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """The runs of pixels inside of all masks: the row of the mask, the first and the last pixel (down the columns)."""
    digits = np.frombuffer(b"".join(counts), np.uint8).astype(np.int64) - 48  # pycocotools' rleToString, see rle_counts
    mask_of_digit = np.repeat(np.arange(len(counts)), [len(c) for c in counts])
    end = np.flatnonzero(digits & 32 == 0)
    begin = np.concatenate(([0], end[:-1] + 1))[: len(end)]
    places = np.arange(len(digits)) - np.repeat(begin, end - begin + 1)
    values = np.add.reduceat((digits & 31) << 5 * places, begin) if len(end) else digits
    values -= np.where(digits[end] & 16, np.int64(1) << 5 * (end - begin + 1), 0)
    mask = mask_of_digit[end]
    position = np.arange(len(mask)) - np.searchsorted(mask, mask)
    # From the fourth on, a value is the difference to the run two before: sums along the odd runs, and the even ones from 2.
    chain = np.argsort(3 * mask + np.where(position, 1 + position % 2, 0), kind="stable")
    lengths = np.empty_like(values)
    lengths[chain] = _sums(values[chain], (position < 3)[chain])
    ends = _sums(lengths, position == 0)
    kept = (position % 2 == 1) & (lengths > 0)
    return mask[kept], (ends - lengths)[kept], ends[kept] - 1


def _sums(values: NDArray[np.int64], restart: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Running sums that start anew at every ``restart``, the first place among them."""
    sums = np.cumsum(values)
    first = np.flatnonzero(restart)
    before = (sums - values)[first]
    return sums - np.repeat(before, np.diff(np.append(first, len(values))))


def _covered(
    masks: int, length: int, mask: NDArray[np.int64], first: NDArray[np.int64], last: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Places bool (masks, length) that lie in any stretch from ``first`` to ``last`` (both inside) of their ``mask``."""
    size, row = masks * (length + 1), mask * (length + 1)
    opened = np.bincount(row + first, minlength=size) - np.bincount(row + last + 1, minlength=size)
    return np.cumsum(opened.reshape(masks, length + 1), axis=1)[:, :length] > 0
