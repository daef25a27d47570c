"""Where a mask lies: centroid and the means of the position priors inside it, from its runs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from store.segmentation import column_counts, row_counts
from store.table import Table

Floats = NDArray[np.floating]
PRIORS = ("left", "right", "middle", "top", "bottom")
"""The columns of ``proposal_prior``, as ``stages.text.words.POSITIONS``."""


def ramp(length: int) -> NDArray[np.float64]:
    """0 to 1 along ``length`` pixels (L,): HybridGL's prior "right"; 0 for a single pixel, as "left" is 1 there."""
    return np.linspace(0, 1, length)


def triangle(length: int) -> NDArray[np.float64]:
    """0 to 1 and back (L,): HybridGL's prior "middle"; with an odd length the greater half falls.

    >>> triangle(7).round(2).tolist()
    [0.0, 0.5, 1.0, 1.0, 0.67, 0.33, 0.0]
    """
    return np.concatenate([np.linspace(0, 1, length // 2), np.linspace(1, 0, length - length // 2)])


def geometry_of(counts: Sequence[bytes], height: int, width: int) -> tuple[Floats, Floats]:
    """Of N masks of one image: centroids float32 (N, 2), x and y as shares of width and height, and means of the priors
    inside float32 (N, 5), in the order of ``PRIORS``. An empty mask has centroid (0.5, 0.5) and priors 0.5.

    A centroid is the mean of pixel centres: a mask of the whole image has (0.5, 0.5).
    """
    columns, rows = column_counts(counts, height, width), row_counts(counts, height, width)
    area = columns.sum(1)
    filled = np.maximum(area, 1)
    right, middle, bottom = (
        (of @ prior) / filled
        for of, prior in ((columns, ramp(width)), (columns, triangle(width)), (rows, ramp(height)))
    )
    x = columns @ (np.arange(width) + 0.5) / filled / width
    y = rows @ (np.arange(height) + 0.5) / filled / height
    centroid, prior = np.stack([x, y], 1), np.stack([1 - right, right, middle, 1 - bottom, bottom], 1)
    centroid[area == 0], prior[area == 0] = 0.5, 0.5
    return centroid.astype(np.float32), prior.astype(np.float32)


def geometry_columns(index: Table, proposals: Table) -> dict[str, NDArray[np.generic]]:
    """``proposal_centroid`` (N, 2), ``proposal_prior`` (N, 5) and ``proposal_size`` (N, 2) of all images."""
    offsets, masks, sizes = proposals["image_offsets"], proposals["mask"], index["image_size"]
    centroid = np.empty((len(masks), 2), np.float32)
    prior = np.empty((len(masks), len(PRIORS)), np.float32)
    for image in np.flatnonzero(np.diff(offsets)):
        own = slice(offsets[image], offsets[image + 1])
        centroid[own], prior[own] = geometry_of(masks[own], *sizes[image].tolist())
    size = np.repeat(sizes, np.diff(offsets), 0).astype(np.int32)
    return {"proposal_centroid": centroid, "proposal_prior": prior, "proposal_size": size}
