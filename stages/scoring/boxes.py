"""Relations of two boxes, as HybridGL and ReCLIP have them: what fires, and how strongly."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from stages.text.words import KINDS

Doubles = NDArray[np.float64]
BETWEEN, WITHIN = KINDS.index("between"), KINDS.index("within")


def box_relation(kind: int, boxes: Doubles, anchors: Doubles) -> Doubles:
    """How far each box stands in a relation to each anchor, float64 (n, m).

    ``left``, ``right``: 1 where the centre has a smaller or greater x; ``above``, ``below``: y; ``bigger``, ``smaller``: the
    area of the box; ``within``: the share of the box that the anchor covers, 0 for a box without area. Equal numbers are in
    no relation.

    Args:
        kind: place in ``stages.text.words.KINDS``, not ``between``. boxes, anchors: XYXY (n, 4), (m, 4).
    """
    name = KINDS[kind]
    if name == "within":
        return _share(boxes[:, None], anchors[None])
    value = centre_x if name in ("left", "right") else centre_y if name in ("above", "below") else area
    own, other = value(boxes)[:, None], value(anchors)[None]
    fires: NDArray[np.bool_] = own > other if name in ("right", "below", "bigger") else own < other
    return fires.astype(np.float64)


def box_between(boxes: Doubles, first: Doubles, second: Doubles) -> Doubles:
    """The share of each box that lies in the hull of two others, float64 (n, m, l)."""
    low = np.minimum(first[:, None, :2], second[None, :, :2])
    high = np.maximum(first[:, None, 2:], second[None, :, 2:])
    return _share(boxes[:, None, None], np.concatenate([low, high], -1)[None])


def _share(boxes: Doubles, others: Doubles) -> Doubles:
    low, high = np.maximum(boxes[..., :2], others[..., :2]), np.minimum(boxes[..., 2:], others[..., 2:])
    inside = np.maximum(high - low, 0).prod(-1)
    own = area(boxes)
    share: Doubles = inside / np.where(own > 0, own, 1)
    return share


def centre_x(boxes: Doubles) -> Doubles:
    """(..., 4) -> (...)."""
    x: Doubles = (boxes[..., 0] + boxes[..., 2]) / 2
    return x


def centre_y(boxes: Doubles) -> Doubles:
    """(..., 4) -> (...)."""
    y: Doubles = (boxes[..., 1] + boxes[..., 3]) / 2
    return y


def area(boxes: Doubles) -> Doubles:
    """(..., 4) -> (...), 0 for a box that is turned round."""
    size: Doubles = np.maximum(boxes[..., 2:] - boxes[..., :2], 0).prod(-1)
    return size
