"""Masks as COCO run-length encodings (pycocotools): bytes on disk, bool (N,H,W) in memory."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

Rle = dict[str, object]


def as_rle(counts: bytes, height: int, width: int) -> Rle:
    """The pycocotools form of stored counts."""
    return {"size": [int(height), int(width)], "counts": counts}


def encode(masks: NDArray[np.bool_]) -> list[bytes]:
    """Counts of masks bool (N,H,W); [] for N = 0."""
    if not len(masks):
        return []
    columns = np.asfortranarray(masks.transpose(1, 2, 0).astype(np.uint8))
    return [rle["counts"] for rle in coco.encode(columns)]


def decode(counts: Iterable[bytes], height: int, width: int) -> NDArray[np.bool_]:
    """Masks bool (N,H,W) of stored counts; (0,H,W) for none."""
    rles = [as_rle(c, height, width) for c in counts]
    if not rles:
        return np.zeros((0, height, width), np.bool_)
    return np.ascontiguousarray(coco.decode(rles).transpose(2, 0, 1)).astype(np.bool_)


def areas(counts: Iterable[bytes], height: int, width: int) -> NDArray[np.int64]:
    """Areas int64 (N,) in pixels."""
    rles = [as_rle(c, height, width) for c in counts]
    return coco.area(rles).astype(np.int64) if rles else np.zeros(0, np.int64)
