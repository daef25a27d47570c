"""In what numbers CLIP computes: a parameter, for it changes the vectors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

Precision = Literal["float32", "bf16", "fp16"]
"""Of weights and activations; images, masks and all that is stored are float32. Only float32 is called exact."""


def dtype_of(precision: Precision) -> torch.dtype:
    """The torch dtype of a precision."""
    import torch

    return {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
