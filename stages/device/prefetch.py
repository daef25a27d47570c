"""Reading ahead: what threads can do (decode, resize) while the main one computes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

In = TypeVar("In")
Out = TypeVar("Out")

AHEAD = 2


def ahead(work: Callable[[In], Out], inputs: Iterable[In]) -> Iterator[Out]:
    """``map(work, inputs)`` with the next `AHEAD` results made in threads while the caller uses the last.

    An error is raised in its turn. When the caller stops early, what has not begun is never done.
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
