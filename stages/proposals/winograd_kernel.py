"""The transforms behind ``stages.proposals.winograd``, compiled by numba: matrix products would cost more than they save.

All functions stand in one file, for numba keeps compiled code by the file. The four sums are written out: one function of
slices is several times slower under numba.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

Floats = NDArray[np.floating]

compiled = njit(cache=True, nogil=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz"})


@compiled
def to_points(strip: Floats, matrix: Floats, points: Floats) -> None:
    """Transform 6 x 6 tiles, in both directions.

    Args:
        strip: (4 d + 2, 4 a + 2, C). matrix: (6, 6). points: to fill, (36, d a, C).
    """
    down, across, channels = (strip.shape[0] - 2) // 4, (strip.shape[1] - 2) // 4, strip.shape[2]
    half = np.empty((6, 6, channels), points.dtype)
    for row in range(down):
        y = 4 * row
        for column in range(across):
            tile = row * across + column
            for j in range(6):
                x = 4 * column + j
                for i in range(6):
                    a, b, c, d, e, f = (
                        matrix[i, 0],
                        matrix[i, 1],
                        matrix[i, 2],
                        matrix[i, 3],
                        matrix[i, 4],
                        matrix[i, 5],
                    )
                    for k in range(channels):
                        half[i, j, k] = (
                            a * strip[y, x, k]
                            + b * strip[y + 1, x, k]
                            + c * strip[y + 2, x, k]
                            + d * strip[y + 3, x, k]
                            + e * strip[y + 4, x, k]
                            + f * strip[y + 5, x, k]
                        )
            for i in range(6):
                for j in range(6):
                    a, b, c, d, e, f = (
                        matrix[j, 0],
                        matrix[j, 1],
                        matrix[j, 2],
                        matrix[j, 3],
                        matrix[j, 4],
                        matrix[j, 5],
                    )
                    place = 6 * i + j
                    for k in range(channels):
                        points[place, tile, k] = (
                            a * half[i, 0, k]
                            + b * half[i, 1, k]
                            + c * half[i, 2, k]
                            + d * half[i, 3, k]
                            + e * half[i, 4, k]
                            + f * half[i, 5, k]
                        )


@compiled
def from_points(points: Floats, matrix: Floats, bias: Floats, out: Floats) -> None:
    """Transform the products of tiles back and add the ``bias``; what lies beyond ``out`` is left.

    Args:
        points: (36, d a, C). matrix: (4, 6). bias: (C,). out: to fill, (H, W, C); d and a are H and W over 4, rounded up.
    """
    height, width, channels = out.shape
    down, across = -(-height // 4), -(-width // 4)
    half = np.empty((4, 6, channels), points.dtype)
    for row in range(down):
        for column in range(across):
            tile = row * across + column
            for j in range(6):
                for i in range(4):
                    a, b, c, d, e, f = (
                        matrix[i, 0],
                        matrix[i, 1],
                        matrix[i, 2],
                        matrix[i, 3],
                        matrix[i, 4],
                        matrix[i, 5],
                    )
                    for k in range(channels):
                        half[i, j, k] = (
                            a * points[j, tile, k]
                            + b * points[j + 6, tile, k]
                            + c * points[j + 12, tile, k]
                            + d * points[j + 18, tile, k]
                            + e * points[j + 24, tile, k]
                            + f * points[j + 30, tile, k]
                        )
            for i in range(min(4, height - 4 * row)):
                y = 4 * row + i
                for j in range(min(4, width - 4 * column)):
                    x = 4 * column + j
                    a, b, c, d, e, f = (
                        matrix[j, 0],
                        matrix[j, 1],
                        matrix[j, 2],
                        matrix[j, 3],
                        matrix[j, 4],
                        matrix[j, 5],
                    )
                    for k in range(channels):
                        out[y, x, k] = bias[k] + (
                            a * half[i, 0, k]
                            + b * half[i, 1, k]
                            + c * half[i, 2, k]
                            + d * half[i, 3, k]
                            + e * half[i, 4, k]
                            + f * half[i, 5, k]
                        )
