"""Moving arrays to the device that computes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def to_device(values: NDArray[Any] | Tensor, device: torch.device | str) -> Tensor:
    """``values`` as a tensor on ``device``, shape and dtype kept; a CPU gets the same memory.

    Copies to a GPU are asynchronous, through pinned memory, so that the CPU can prepare the next ones; kernels that use the
    tensor are queued behind the copy.
    """
    tensor = torch.from_numpy(values) if isinstance(values, np.ndarray) else values
    if tensor.is_cuda or torch.device(device).type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
