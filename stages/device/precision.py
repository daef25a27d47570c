"""The number formats a network may run in, and whether this machine gains from the short ones."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

Precision = Literal["float32", "bf16", "fp16"]
"""float32 is exact (to rounding); the others change values, so they belong to a stage's parameters."""


def torch_dtype(precision: Precision) -> torch.dtype:
    """The torch type of a precision."""
    import torch

    return {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]


def bf16_gain(device: str = "cpu") -> float:
    """How many times faster than float32 this machine's bf16 is, measured in a fraction of a second; under 1: slower.

    The work is a 3 x 3 convolution as networks have most of, channels last. CPUs with matrix units for bf16 (AMX) reach
    5 and more, those with its dot products (AVX512_BF16) about 2, others emulate it and are slower.
    """
    import torch

    images, weights = torch.randn(1, 128, 32, 32, device=device), torch.randn(128, 128, 3, 3, device=device)

    def work(dtype: torch.dtype) -> Callable[[], object]:
        x = images.to(dtype=dtype, memory_format=torch.channels_last)
        w = weights.to(dtype=dtype, memory_format=torch.channels_last)
        return lambda: torch.nn.functional.conv2d(x, w, padding=1).sum().item()  # .item() waits for a GPU

    with torch.inference_mode():
        exact, short = (_seconds(work(dtype)) for dtype in (torch.float32, torch.bfloat16))
    return exact / short


def _seconds(work: Callable[[], object], repeats: int = 5) -> float:
    """The shortest of a few runs, after a warm-up."""
    work()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)
