"""Forward passes that fit into the device's memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from store.errors import ParameterError
from store.units import Compute, Result


class Batched(Protocol):
    """An encoder that runs passes of at most ``batch`` rows (masks, crops, strings)."""

    batch: int


def rows_for(device: str, batch: int | None) -> int:
    """``batch`` if it is given, else a default beyond which rows gain nothing on a CPU and little on a GPU."""
    return batch or (64 if device == "cpu" else 512)


def shrinking(compute: Compute, encoder: Batched, device: str) -> Compute:
    """``compute``, retried with half the rows of ``encoder`` whenever the memory of ``device`` is full.

    The smaller number of rows stays, so passes also fit while other processes share the GPU.

    Raises (when called):
        ParameterError: a pass of one row does not fit.
    """

    def fitting(inputs: Sequence[Any], kinds: tuple[str, ...]) -> list[Result]:
        import torch

        while True:
            try:
                return compute(inputs, kinds)
            except torch.OutOfMemoryError as error:
                # Not the error itself: its traceback would hold the pass's tensors.
                full = str(error).partition("\n")[0]
            if encoder.batch == 1:
                raise ParameterError(
                    f"environment GLIMPSE_DEVICE: expected a device with room for a pass of one row, the memory of {device!r} "
                    f"is full ({full}); free some of it, or name another"
                )
            encoder.batch //= 2
            torch.cuda.empty_cache()

    return fitting
