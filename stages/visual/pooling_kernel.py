"""The loop behind ``stages.visual.pooling``, compiled by numba: a product of matrices reads each pixel many times.

Sums of whole numbers only: they are exact, whatever the order, the machine or the version of numba.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

Ints = NDArray[np.int64]


@njit(cache=True, nogil=True, error_model="numpy")
def add_mask(mask: NDArray[np.uint8], row_ends: Ints, row_shares: Ints, ends: Ints, shares: Ints, sums: Ints) -> None:
    """Add what each pixel of ``mask`` (H, W), 0 or 1, gives to the cells before and after it.

    Args:
        row_ends, row_shares: as of ``pooling.Axis``, for rows; ends, shares: for columns.
        sums: (rows + 1, columns + 1) to add to, in units of 1 / (4 H W).
    """
    height, width = mask.shape
    whole_row, whole = 2 * height, 2 * width
    pixels, weighted = np.empty(width, np.int64), np.empty(width, np.int64)
    y = 0
    for row in range(len(row_ends)):
        pixels[:] = 0
        weighted[:] = 0
        while y < row_ends[row]:  # along whole rows first, which the compiler does many pixels at a time
            for x in range(width):
                pixels[x] += mask[y, x]
                weighted[x] += mask[y, x] * row_shares[y]
            y += 1
        x = 0
        for column in range(len(ends)):
            count = right = below = both = np.int64(0)
            while x < ends[column]:
                count += pixels[x]
                right += pixels[x] * shares[x]
                below += weighted[x]
                both += weighted[x] * shares[x]
                x += 1
            sums[row, column] += (count * whole - right) * whole_row - (below * whole - both)
            sums[row, column + 1] += right * whole_row - both
            sums[row + 1, column] += below * whole - both
            sums[row + 1, column + 1] += both
