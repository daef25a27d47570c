"""Means of an upsampled heat map inside a mask as weights on the map's own grid: no map is ever upsampled.

A heat map h_p = v_p . t is linear in the text vector t, and bilinear upsampling is linear too, U = U_y x U_x. So the mean
of the upsampled map inside mask M is sum_p w_p h_p with w = U_y^T M U_x / |M|, the adjoint of the upsampling (not the
resized mask that global features use); and with h_m = sum_p w_p v_p it is h_m . t for any text: one vector a mask.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Pooling = Literal["inside", "inside_minus_outside"]
"""The mean inside the mask, or that less the mean outside."""


def upsampling(grid: int, length: int) -> NDArray[np.float64]:
    """One axis of a bilinear upsampling (align_corners false): float64 (length, grid), rows sum to 1.

    Places between two cells mix them; what lies outside the first or last cell's centre takes that cell.
    """
    place = np.maximum((np.arange(length) + 0.5) * grid / length - 0.5, 0)
    before = np.minimum(place.astype(np.int64), grid - 1)
    after, share = np.minimum(before + 1, grid - 1), place - before
    matrix = np.zeros((length, grid))
    rows = np.arange(length)
    np.add.at(matrix, (rows, before), 1 - share)
    np.add.at(matrix, (rows, after), share)
    return matrix


def area_shares(masks: NDArray[np.bool_], grid: tuple[int, int]) -> NDArray[np.float64]:
    """How much of each cell of ``grid`` (rows, columns) masks bool (N, H, W) cover: float64 (N, rows, columns), 0 to 1."""

    def overlaps(cells: int, length: int) -> NDArray[np.float64]:
        """What each cell has of each pixel, (cells, length), along one axis; a cell has ``length`` in all, whole numbers."""
        edges, pixels = np.arange(cells + 1) * length, np.arange(length) * cells
        shared = np.minimum(edges[1:, None], pixels + cells) - np.maximum(edges[:-1, None], pixels)
        return np.maximum(shared, 0).astype(np.float64)

    rows, columns = (overlaps(cells, length) for cells, length in zip(grid, masks.shape[1:], strict=True))
    covered: NDArray[np.float64] = rows @ (masks.astype(np.float64) @ columns.T)  # exact: sums of whole numbers
    return covered / (masks.shape[1] * masks.shape[2])


def pooling_weights(
    masks: NDArray[np.bool_], grid: tuple[int, int], pooling: Pooling = "inside"
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """The weights of every mask on a heat map of ``grid`` (rows, columns).

    Args:
        masks: bool (N, H, W) at the image's own size.

    Returns:
        float32 (N, rows * columns), row by row, and which masks have no such mean, bool (N,): empty ones, and for
        ``inside_minus_outside`` those that cover the whole image. Their weights are 0.
    """
    rows, columns = upsampling(grid[0], masks.shape[1]), upsampling(grid[1], masks.shape[2])
    # One mask at a time: as numbers it is eight times as large, and so stays in the processor's cache.
    sums = np.array([rows.T @ (mask.astype(np.float64) @ columns) for mask in masks]).reshape(
        len(masks), grid[0] * grid[1]
    )
    area = np.array([np.count_nonzero(mask) for mask in masks], np.float64)[:, None]
    pixels = masks.shape[1] * masks.shape[2]
    nothing = area[:, 0] == 0
    weights = np.divide(sums, area, out=np.zeros_like(sums), where=area > 0)
    if pooling == "inside_minus_outside":
        total = np.outer(rows.sum(0), columns.sum(0)).reshape(1, -1)
        nothing |= area[:, 0] == pixels
        outside = np.divide(total - sums, pixels - area, out=np.zeros_like(sums), where=area < pixels)
        weights = weights - outside
        weights[nothing] = 0
    return weights.astype(np.float32), nothing
