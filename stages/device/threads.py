"""Several inputs at once on a CPU: small products leave most of its cores waiting, other inputs fill them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from stages.device.prefetch import prefetch

In = TypeVar("In")
Read = TypeVar("Read")
Out = TypeVar("Out")

AT_ONCE = 4
"""Inputs that are computed at once, at most: each holds its own activations."""


def read_and_compute(
    read: Callable[[In], Read], compute: Callable[[Read], Out], inputs: Sequence[In], device: str, of: int
) -> Iterator[Out]:
    """``compute(read(x))`` of each input, in order.

    On a CPU `AT_ONCE` of them in threads of their own, among which torch's threads are shared out; else (a GPU, or one
    thread for all) one after the other, the next ones being read meanwhile. An error is raised at its position.

    Args:
        read: without torch.
        compute: may run in several threads at once: what it shares with others does not change.
        of: the inputs of the whole run, whichever are left to compute. It decides, not ``len(inputs)``, how many threads an
            input gets, since sums are rounded by how they are shared out: what is computed again has the same bytes.
    """
    at_once, each = shares(of) if device == "cpu" else (1, 0)
    if at_once == 1:
        yield from map(compute, prefetch(read, inputs))
        return
    import torch

    before = torch.get_num_threads()
    with ThreadPoolExecutor(at_once, initializer=lambda: torch.set_num_threads(each)) as pool:
        try:
            yield from pool.map(lambda x: compute(read(x)), inputs)
        finally:
            pool.shutdown(cancel_futures=True)
            torch.set_num_threads(before)


def shares(inputs: int) -> tuple[int, int]:
    """How many of ``inputs`` are computed at once on a CPU, and the threads that torch has for each."""
    import torch

    threads = torch.get_num_threads()
    at_once = max(1, min(AT_ONCE, threads, inputs))
    return at_once, max(1, threads // at_once)
