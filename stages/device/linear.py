"""Linear maps by whichever of torch's libraries is fast on this machine's CPU."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor
from torch.nn import functional


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``functional.linear`` of x (..., in) for inference: (..., out). weight (out, in), bias (out,).

    In float32 on a CPU by oneDNN, with which torch convolves, instead of MKL, with which it multiplies: MKL leaves the wide
    registers of AMD's CPUs unused. torch offers oneDNN's product to its own compiler only, hence the underscore; where a
    version of torch lacks it, the plain function serves.
    """
    if x.device.type == "cpu" and x.dtype == weight.dtype == torch.float32 and _offers_onednn():
        product: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
        return product
    return functional.linear(x, weight, bias)


@cache
def _offers_onednn() -> bool:
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
