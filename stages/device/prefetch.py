"""Prefetching: threads decode and resize the next inputs while another one computes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

In = TypeVar("In")
Out = TypeVar("Out")

AHEAD = 2


def prefetch(work: Callable[[In], Out], inputs: Iterable[In]) -> Iterator[Out]:
    """``map(work, inputs)`` with the next `AHEAD` results made in threads while the caller uses the last.

    An error is raised at its position. When the caller stops early, work that has not begun is cancelled.
    """
    waiting: deque[Future[Out]] = deque()
    with ThreadPoolExecutor(AHEAD) as pool:
        try:
            for value in inputs:
                waiting.append(pool.submit(work, value))
                if len(waiting) > AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
