"""Means of an upsampled heat map inside a mask as weights on the map's own grid: no map is ever upsampled.

A heat map h_p = v_p . t is linear in the text vector t, and bilinear upsampling is linear too, U = U_y x U_x. So the mean
of the upsampled map inside mask M is sum_p w_p h_p with w = U_y^T M U_x / |M|, the adjoint of the upsampling (not the
resized mask that global features use); and with h_m = sum_p w_p v_p it is h_m . t for any text: one vector a mask.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Pooling = Literal["inside", "inside_minus_outside"]
"""The mean inside the mask, or that less the mean outside."""


class Axis(NamedTuple):
    """One axis of a bilinear upsampling (align_corners false) in whole numbers: which two cells a pixel mixes, and how.

    A pixel of the first cell is one before ``ends[0]``, and so on. It takes ``1 - shares / (2 length)`` of its cell and
    the rest of the next one; what lies outside the first or last cell's centre takes that cell.
    """

    ends: NDArray[np.int64]  # (cells,)
    shares: NDArray[np.int64]  # (length,)

    @classmethod
    def of(cls, cells: int, length: int) -> Axis:
        place = np.maximum((2 * np.arange(length) + 1) * cells - length, 0)  # of the pixel's centre, in 1 / (2 length)
        cell = np.minimum(place // (2 * length), cells - 1)
        shares = np.where(cell == cells - 1, 0, place - cell * 2 * length)
        return cls(np.searchsorted(cell, np.arange(cells), side="right").astype(np.int64), shares.astype(np.int64))


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
    sums = _sums(masks, grid)
    area = np.array([np.count_nonzero(mask) for mask in masks], np.float64)[:, None]
    pixels = masks.shape[1] * masks.shape[2]
    nothing = area[:, 0] == 0
    weights = np.divide(sums, area, out=np.zeros_like(sums), where=area > 0)
    if pooling == "inside_minus_outside":
        total = _sums(np.ones((1, *masks.shape[1:]), np.bool_), grid)
        nothing |= area[:, 0] == pixels
        outside = np.divide(total - sums, pixels - area, out=np.zeros_like(sums), where=area < pixels)
        weights = weights - outside
        weights[nothing] = 0
    return weights.astype(np.float32), nothing


def _sums(masks: NDArray[np.bool_], grid: tuple[int, int]) -> NDArray[np.float64]:
    """U_y^T M U_x of every mask, float64 (N, rows * columns)."""
    from stages.visual.pooling_kernel import add_mask

    height, width = masks.shape[1:]
    rows, columns = Axis.of(grid[0], height), Axis.of(grid[1], width)
    sums = np.zeros((len(masks), grid[0] + 1, grid[1] + 1), np.int64)
    for mask, into in zip(masks, sums, strict=True):
        add_mask(np.ascontiguousarray(mask).view(np.uint8), *rows, *columns, into)
    inside = sums[:, :-1, :-1].reshape(len(masks), grid[0] * grid[1])  # nobody takes of the cells beyond
    return inside / (4 * height * width)
