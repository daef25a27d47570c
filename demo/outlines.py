"""Masks as COCO segmentations: polygons where they can say it, run lengths where a mask has a hole."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from demo.scenes import Mask

_TOLERANCE = 0.6  # pixels by which a polygon may cut corners
_LEAST_AREA = 6.0  # square pixels; smaller specks get no polygon
_LEAST_IOU = 0.975  # of the drawn polygons with the mask; below it the mask is kept as run lengths

_Point = tuple[int, int]


def segmentation(mask: Mask) -> list[list[float]] | dict[str, Any]:
    """The COCO `segmentation` of a bool (H, W) mask: a polygon for each piece, or an uncompressed RLE.

    RLE stands where the mask has a hole, or where polygons would miss it by more than a little.
    """
    loops = [loop for loop in boundary_loops(mask) if abs(_signed_area(loop)) >= _LEAST_AREA]
    if loops and all(_signed_area(loop) > 0 for loop in loops):
        polygons = [[float(end) for point in _simplified(loop) for end in point] for loop in loops]
        if all(len(polygon) >= 6 for polygon in polygons) and _polygon_iou(polygons, mask) >= _LEAST_IOU:
            return polygons
    return _run_lengths(mask)


def boundary_loops(mask: Mask) -> list[list[_Point]]:
    """Closed outlines along pixel borders as (x, y) corners, clockwise on screen around pieces, counter around holes.

    Pieces that meet only at a corner are kept apart.
    """
    ways = _border_steps(mask)
    used: set[tuple[_Point, _Point]] = set()
    loops = []
    for start, steps in ways.items():
        for first in steps:
            loop, here, step = [], start, first
            while (here, step) not in used:
                used.add((here, step))
                loop.append(here)
                here = (here[0] + step[0], here[1] + step[1])
                # Where two pieces touch, the right turn (on screen, y down) keeps to the same one.
                step = (-step[1], step[0]) if len(ways[here]) == 2 else ways[here][0]
            if loop:
                loops.append(loop)
    return loops


def _border_steps(mask: Mask) -> dict[_Point, list[_Point]]:
    """Pixel corner -> unit steps (dx, dy) that leave it along the mask's border with the mask on their right."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return {}
    top, left = int(rows[0]), int(columns[0])
    piece = mask[top : rows[-1] + 1, left : columns[-1] + 1]
    padded = np.pad(piece, 1)
    sides = {  # neighbour outside the mask -> where along the pixel the step begins, and the step
        "above": (padded[:-2, 1:-1], (0, 0), (1, 0)),
        "right": (padded[1:-1, 2:], (1, 0), (0, 1)),
        "below": (padded[2:, 1:-1], (1, 1), (-1, 0)),
        "left": (padded[1:-1, :-2], (0, 1), (0, -1)),
    }
    ways: dict[_Point, list[_Point]] = {}
    for neighbour, (right, down), step in sides.values():
        for y, x in np.argwhere(piece & ~neighbour).tolist():
            ways.setdefault((left + x + right, top + y + down), []).append(step)
    return ways


def _signed_area(loop: list[_Point]) -> float:
    closed = [*loop, loop[0]]
    return 0.5 * sum(a[0] * b[1] - b[0] * a[1] for a, b in pairwise(closed))


def _simplified(loop: list[_Point]) -> list[_Point]:
    """Douglas-Peucker on a closed loop, split at its two most distant of a few corners."""
    points = np.array(loop, dtype=np.float64)
    far = int(np.argmax(np.hypot(*(points - points[0]).T)))
    closed = np.concatenate([points, points[:1]])
    kept = sorted({0, far, *_needed(closed, 0, far), *_needed(closed, far, len(loop))})
    return [loop[i] for i in kept if i < len(loop)]


def _needed(points: np.ndarray[Any, np.dtype[np.float64]], first: int, last: int) -> list[int]:
    """Indices strictly between first and last that a line from one to the other misses by more than _TOLERANCE."""
    if last - first < 2:
        return []
    along = points[last] - points[first]
    length = float(np.hypot(*along))
    offsets = points[first + 1 : last] - points[first]
    gaps = np.abs(along[0] * offsets[:, 1] - along[1] * offsets[:, 0]) / length if length else np.hypot(*offsets.T)
    worst = int(np.argmax(gaps))
    if gaps[worst] <= _TOLERANCE:
        return []
    split = first + 1 + worst
    return [*_needed(points, first, split), split, *_needed(points, split, last)]


def _polygon_iou(polygons: list[list[float]], mask: Mask) -> float:
    height, width = mask.shape
    drawn = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))).astype(np.bool_)
    return float(np.count_nonzero(drawn & mask) / np.count_nonzero(drawn | mask))


def _run_lengths(mask: Mask) -> dict[str, Any]:
    """COCO's uncompressed RLE: lengths of runs down the columns, zeros first."""
    flat = mask.ravel(order="F")
    changes = np.flatnonzero(np.diff(flat, prepend=False)) if flat.size else np.array([], dtype=np.intp)
    counts = np.diff(changes, prepend=0, append=flat.size)
    return {"size": list(mask.shape), "counts": counts.tolist()}
