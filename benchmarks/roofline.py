"""What a benchmark's work must at least cost on this machine: its operations and bytes, over the rates measured here."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, register_flop_formula

from benchmarks.harness import medians
from stages.device.linear import linear

THREADS = 2


@register_flop_formula(torch.ops.mkldnn._linear_pointwise)
def _linear_flop(x: tuple[int, ...], weight: tuple[int, ...], *rest: object, **options: object) -> int:
    """Of `stages.device.linear.linear`; shapes (..., in) and (out, in)."""
    return 2 * math.prod(x) * weight[0]


@dataclass(frozen=True)
class Work:
    """``gflop``: additions and multiplications, 10^9. ``gbyte``: what must be read and written once, 10^9 bytes.

    ``seconds``: of the part of the benchmark that does this work; None for all of it.
    """

    gflop: float
    gbyte: float
    seconds: float | None = None

    def row(self, whole: float) -> dict[str, Any]:
        """The roofline of work that is done in ``whole`` seconds, for benchmarks/results.json."""
        seconds = self.seconds or whole
        compute, memory = self.gflop / peak_gflops(), self.gbyte / peak_gbytes()
        least = max(compute, memory)
        return {
            "gflop": self.gflop,
            "gbyte": self.gbyte,
            "seconds": seconds,
            "peak_gflops": peak_gflops(),
            "peak_gbytes": peak_gbytes(),
            "bound": "compute" if compute >= memory else "memory",
            "least": least,
            "share": least / seconds,
        }


def counted(call: Callable[[], object], *modules: nn.Module, gbyte: float = 0.0) -> Work:
    """The work of one ``call``: its convolutions and matrix products, and the parameters of ``modules`` read once."""
    with FlopCounterMode(display=False) as counter:
        call()
    size = sum(p.numel() * p.element_size() for module in modules for p in module.parameters())
    return Work(counter.get_total_flops() / 1e9, size / 1e9 + gbyte)


@cache
def peak_gflops() -> float:
    """10^9 float32 operations a second that square matrix products reach here, the best of two ways, a few sizes and runs."""
    with threads(THREADS), torch.inference_mode():
        return max(
            2 * size**3 / _least(partial(product, torch.randn(size, size), torch.randn(size, size))) / 1e9
            for product in (torch.mm, linear)
            for size in (512, 1024, 2048)
        )


@cache
def peak_gbytes() -> float:
    """10^9 bytes a second, read and written, that copying an array reaches here which no cache holds."""
    with threads(THREADS):
        source, target = torch.ones(1 << 26), torch.empty(1 << 26)
        return 2 * source.nbytes / _least(lambda: target.copy_(source)) / 1e9


def _least(work: Callable[[], object]) -> float:
    return min(medians(work, repeats=1)[0] for _ in range(5))


@contextmanager
def threads(count: int) -> Iterator[None]:
    """At most ``count`` threads for torch within the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(min(count, before))
    try:
        yield
    finally:
        torch.set_num_threads(before)
