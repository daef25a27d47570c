"""The proposals of one image as the arrays that every source hands on: masks, both boxes, scores, areas, status.

A box follows from its mask alone, so both rules are computed at once; which one counts is chosen when the table is put
together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stages.proposals.boxes import BoxRule, boxes_by_rule
from store.ragged import Bytes
from store.segmentation import areas
from store.states import State
from store.work import Item

KIND = "proposals"
"""The kind of the parts that keep items, and the name of the item in each ``Result``."""


@dataclass(frozen=True)
class Proposals:
    """N proposals of one image (H, W), best first; N may be 0. No mask is empty."""

    masks: NDArray[np.bool_]  # (N, H, W)
    boxes: NDArray[np.float32]  # (N, 4) XYXY pixels, by the rule that was asked for
    scores: NDArray[np.float32]  # (N,) 0..1


def no_proposals(status: str, state: State = State.NO_PROPOSALS) -> Item:
    """The item of an image without proposals; ``status`` says why."""
    return {**item_of([], [], 1, 1, status), "state": np.frombuffer(state.encode(), np.uint8)}


def item_of(counts: Sequence[bytes], scores: ArrayLike, height: int, width: int, status: str = "") -> Item:
    """N proposals, best first: RLE counts of masks of an image of this size, none empty, and scores (N,)."""
    masks, state = Bytes.of(counts), "" if counts else State.NO_PROPOSALS
    return {
        "mask": masks.flat,
        "length": np.diff(masks.offsets),
        "score": np.asarray(scores, np.float32),
        "area": areas(counts, height, width),
        "status": np.frombuffer(status.encode("utf-8", "surrogatepass"), np.uint8),
        "state": np.frombuffer(state.encode(), np.uint8),
        **{f"box.{rule}": boxes for rule, boxes in boxes_by_rule(counts, height, width).items()},
    }


def boxes_of(item: Item, rule: BoxRule) -> NDArray[np.float32]:
    """Boxes float32 (N,4), XYXY in pixels."""
    return item[f"box.{rule}"]
