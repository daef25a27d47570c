"""Exact pixel counts of the overlap of masks, without decoding them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

from store.errors import DataError
from store.segmentation import Rle, areas_of

Counts = NDArray[np.int64]


def overlap_counts(proposals: Sequence[Rle], truths: Sequence[Rle]) -> tuple[Counts, Counts]:
    """Intersection and union of every proposal with every ground truth.

    pycocotools gives q = fl(I / U) in float64 of exact integers I and U, and I + U = S is the sum of the two areas, so
    I = q S / (1 + q). The four roundings change that by at most about 4 * 2^-53 I < 0.5 for every I below 2^50:
    rounding to the nearest integer restores I exactly, and U = S - I. A third of the time of merging the masks.

    Args:
        proposals, truths: compressed RLEs of one image: equal sizes, no runs of 0 pixels but a first one.

    Returns:
        Two arrays int64 (P, G), in pixels; with an empty mask I = 0 and U is the other's area; P or G can be 0.

    Raises:
        DataError: masks of different sizes.
    """
    sizes = {str(rle["size"]) for rle in (*proposals, *truths)}
    if len(sizes) > 1:
        raise DataError(f"expected masks of one image, got sizes {sorted(sizes)} (height, width)")
    shape = len(proposals), len(truths)
    if 0 in shape:
        return np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    quotient = coco.iou(list(proposals), list(truths), [0] * len(truths))
    total = np.add.outer(areas_of(proposals), areas_of(truths))
    intersection = np.rint(quotient * total / (1 + quotient)).astype(np.int64)
    return intersection, total - intersection
