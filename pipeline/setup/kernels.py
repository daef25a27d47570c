"""Compile the loops of numba: ``python -m pipeline.setup.kernels``, part of ``make env``, so that no stage waits for it.

numba keeps the compiled code beside each file, in ``__pycache__``. Each function is called with nothing to do, and arguments of
the types that the stages give it: for other ones, or after an edit, it is compiled again when it is needed.
"""

from __future__ import annotations

import numpy as np
import torch

from stages.proposals.winograd import WinogradConv
from stages.scoring.products_kernel import add_cell, multiply_all, multiply_images, multiply_listed, multiply_rows
from stages.scoring.surface import load_kernel
from stages.visual.pooling import pooling_weights


def main() -> None:
    """Compile every function, or find that it is."""
    ints, pairs = np.zeros(1, np.int64), np.zeros((0, 2), np.int64)
    floats, rows = np.zeros(0, np.float32), np.zeros((0, 1), np.float32)
    multiply_images(0, 0, ints, ints, ints, pairs, rows, np.int64(0), rows, floats, floats)
    multiply_rows(rows, rows, floats)
    multiply_listed(ints[:0], ints, ints, ints, ints, rows, 0, rows, floats)
    multiply_all(rows, rows, rows)
    add_cell(floats, floats, floats, floats, ints, ints)
    load_kernel()
    pooling_weights(np.zeros((1, 2, 2), np.bool_), (1, 1))
    with torch.inference_mode():
        WinogradConv(torch.nn.Conv2d(1, 1, 3, padding=1))(torch.zeros(1, 1, 2, 2))


if __name__ == "__main__":
    main()
