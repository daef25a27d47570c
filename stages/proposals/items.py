"""The proposals of one image as the arrays that every source hands on: masks, both boxes, scores, areas, status.

A box follows from its mask alone, so both rules are computed at once; which one counts is chosen when the table is put
together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from store.masks import areas, decode, encode
from store.ragged import Bytes
from store.work import Item

BoxRule = Literal["reference", "tight"]
_RULES: tuple[BoxRule, ...] = get_args(BoxRule)
_PIXELS = 1 << 26
"""Pixels of masks that are decoded together."""


def no_proposals(status: str) -> Item:
    """The item of an image without proposals; ``status`` says why."""
    return _item([], [], [], {rule: np.zeros((0, 4)) for rule in _RULES}, status)


def item_of_masks(masks: NDArray[np.bool_], scores: ArrayLike) -> Item:
    """Proposals with masks bool (N,H,W), none empty, and scores (N,), best first."""
    counts = encode(masks)
    return _item(counts, scores, areas(counts, *masks.shape[1:]), _boxes(masks))


def item_of_counts(counts: Sequence[bytes], scores: ArrayLike, height: int, width: int) -> Item:
    """Proposals given as RLE counts of an image of this size, one or more, none empty, with scores (N,), best first."""
    together = max(1, _PIXELS // (height * width))
    chunks = [
        _boxes(decode(counts[start : start + together], height, width)) for start in range(0, len(counts), together)
    ]
    boxes = {rule: np.concatenate([chunk[rule] for chunk in chunks]) for rule in _RULES}
    return _item(counts, scores, areas(counts, height, width), boxes)


def boxes_of(item: Item, rule: BoxRule) -> NDArray[np.float32]:
    """Boxes float32 (N,4), XYXY in pixels, by a rule of ``stages.proposals.decode.mask_boxes``."""
    return item[f"box.{rule}"]


def _boxes(masks: NDArray[np.bool_]) -> dict[BoxRule, NDArray[np.float32]]:
    import torch

    from stages.proposals.decode import mask_boxes

    return {rule: mask_boxes(torch.from_numpy(masks), rule).numpy() for rule in _RULES}


def _item(
    counts: Sequence[bytes], scores: ArrayLike, area: ArrayLike, boxes: Mapping[BoxRule, ArrayLike], status: str = ""
) -> Item:
    masks = Bytes.of(counts)
    return {
        "mask": masks.flat,
        "length": np.diff(masks.offsets),
        "score": np.asarray(scores, np.float32),
        "area": np.asarray(area, np.int64),
        "status": np.frombuffer(status.encode("utf-8", "surrogatepass"), np.uint8),
        **{f"box.{rule}": np.asarray(boxes[rule], np.float32) for rule in _RULES},
    }
