"""Boxes of masks by both rules, from their run lengths, without decoding a mask.

The plain form on dense masks is ``stages.proposals.decode.mask_boxes``; a test holds the two together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from store.segmentation import occupied

BoxRule = Literal["reference", "tight"]
RULES: tuple[BoxRule, ...] = get_args(BoxRule)


def boxes_by_rule(counts: Sequence[bytes], height: int, width: int) -> dict[BoxRule, NDArray[np.float32]]:
    """Rule -> boxes float32 (N,4), XYXY in pixels, of N masks given as RLE counts, none empty; (0,4) for none.

    ``reference``: per axis, the mean index of the occupied columns (rows) plus and minus half their COUNT.
    ``tight``: the outer edges, around all.
    """
    columns, rows = occupied(counts, height, width)
    boxes = {}
    for rule in RULES:
        (x1, x2), (y1, y2) = _extent(columns, rule), _extent(rows, rule)
        boxes[rule] = np.stack([x1, y1, x2, y2], axis=1)
    return boxes


def _extent(lines: NDArray[np.bool_], rule: BoxRule) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Start and end along one axis of occupied lines bool (N,L)."""
    length = lines.shape[1]
    if rule == "tight":
        return lines.argmax(1).astype(np.float32), (length - lines[:, ::-1].argmax(1)).astype(np.float32)
    count = lines.sum(1).astype(np.float32)
    centre = (lines @ np.arange(length)).astype(np.float32) / count
    return centre - count / 2, centre + count / 2
