"""How many rows of a forward pass the device's memory holds, and what a process held there at most."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

ON_CPU = 64
"""Rows where nothing is to be fitted: more gain nothing on a CPU."""
MOST = 1024
_SHARE = 0.6  # of the free memory: passes of other kinds may take somewhat more, and what is free lies in pieces
_FEW = 8


def rows_that_fit(run: Callable[[int], object], device: torch.device) -> int:
    """Rows for passes on ``device``: `ON_CPU` on a CPU, on a GPU what its free memory holds, found by trying a few.

    Args:
        run: a pass of so many rows of the largest kind, the input's own memory included. Not called for a CPU.

    Returns:
        A power of two, `MOST` at most: a little more or less free memory does not change it, nor then the rounding of sums.
    """
    if device.type != "cuda":
        return ON_CPU
    import torch

    run(1)  # what libraries allocate once
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info(device)

    def peak(rows: int) -> int:
        torch.cuda.reset_peak_memory_stats(device)
        held = torch.cuda.memory_allocated(device)
        run(rows)
        return torch.cuda.max_memory_allocated(device) - held

    return rows_within(free, peak(_FEW), peak(2 * _FEW), _FEW)


def rows_within(free: int, few: int, twice: int, rows: int) -> int:
    """The greatest power of two up to `MOST` whose pass stays within a share of ``free`` bytes; 1 at least.

    Args:
        few, twice: peak bytes of passes of ``rows`` and of twice as many rows: a pass takes so much per row, and a rest.
    """
    per_row = max(1.0, (twice - few) / rows)
    rest = max(0.0, few - rows * per_row)
    fitting = int((_SHARE * free - rest) / per_row)
    return 1 << max(0, min(fitting, MOST).bit_length() - 1) if fitting > 0 else 1


def device_peak_bytes(device: str) -> int:
    """The most memory that tensors of this process held on a GPU; 0 for a CPU."""
    if device == "cpu":
        return 0
    import torch

    return torch.cuda.max_memory_allocated(device) if torch.device(device).type == "cuda" else 0
