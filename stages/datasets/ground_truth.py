"""Masks of annotated objects as COCO run-length encodings.

pycocotools trusts its input and can crash on a malformed one, so everything is checked before it gets there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Literal, cast

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

from stages.datasets.fields import shown
from store.errors import DataError
from store.images import MOST_PIXELS
from store.segmentation import Rle

Overlap = Literal["union", "reference"]
_MAX_PIXELS = MOST_PIXELS
"""pycocotools reserves six characters a run. Up to this size only masks of three runs or fewer can fill them all, and
its end mark then falls into what malloc rounds up; in larger images it would write past its buffer."""
_FAR = 8
"""A polygon point may lie this many image sizes outside; rasterising takes memory in proportion to its distance."""


def annotation_mask_rle(
    segmentation: object, height: int, width: int, overlap: Overlap = "union", skipped: list[str] | None = None
) -> Rle:
    """The mask of one annotated object.

    Args:
        segmentation: COCO's polygons ([[x, y, x, y, ...], ...], pixels), one RLE (uncompressed or compressed), or a
            list of RLEs.
        height, width: size of the image in pixels.
        overlap: "union" covers every pixel of any part; "reference" does as the released code, which sums the parts and
            keeps pixels equal to 1, so that pixels under two parts drop out.
        skipped: gets a line for each part that was left out because others remain.

    Returns:
        Compressed RLE ``{"size": [height, width], "counts": bytes}``; it can be empty (a polygon thinner than a pixel).

    Raises:
        DataError: no part is usable, or the size is no image size; with the reason.
    """
    if min(height, width) < 1 or height * width > _MAX_PIXELS:
        raise DataError(f"expected an image of 1 to {_MAX_PIXELS} pixels, got {height} x {width} (height x width)")
    elements = [segmentation] if isinstance(segmentation, Mapping) else segmentation
    if not isinstance(elements, list) or not elements:
        raise DataError(f"segmentation: expected polygons or an RLE, got {shown(segmentation)}")
    parts, reasons = [], []
    for row, element in enumerate(elements):
        try:
            parts.append(_part(element, height, width))
        except DataError as error:
            reasons.append(f"segmentation part {row}: {error}")
    if not parts:
        raise DataError("; ".join(reasons))
    if skipped is not None:
        skipped.extend(reasons)
    if len(parts) == 1 or overlap == "union":
        return union(parts)
    return _covered_once(parts, height, width)


def union(masks: Sequence[Rle]) -> Rle:
    """Every pixel of any of one or more masks of one size."""
    return masks[0] if len(masks) == 1 else coco.merge(list(masks))


def rle_counts(counts: bytes) -> NDArray[np.int64]:
    """Run lengths int64 (n,) of compressed RLE counts, background first.

    Each run is a little-endian group of 5-bit digits (character - 48, bit 6 = more follow) with a sign in its last
    digit; from the fourth run on it is the difference to the run two before (pycocotools' ``rleToString``).

    Raises:
        DataError: not such a string.
    """
    digits = np.frombuffer(counts, np.uint8).astype(np.int64) - 48
    ends = np.flatnonzero(digits & 32 == 0)
    if not len(digits) or digits.min() < 0 or digits.max() > 63 or not len(ends) or ends[-1] != len(digits) - 1:
        raise DataError("compressed RLE counts are damaged")
    starts = np.concatenate(([0], ends[:-1] + 1))
    lengths = ends - starts + 1
    if lengths.max() > 7:  # 35 bits, more than any run
        raise DataError("compressed RLE counts are damaged")
    places = np.arange(len(digits)) - np.repeat(starts, lengths)
    runs = np.add.reduceat((digits & 31) << 5 * places, starts)
    runs -= np.where(digits[ends] & 16, np.int64(1) << 5 * lengths, 0)
    runs[1::2], runs[2::2] = np.cumsum(runs[1::2]), np.cumsum(runs[2::2])
    return runs


def _part(element: object, height: int, width: int) -> Rle:
    if isinstance(element, Mapping):
        return _run_lengths(element, height, width)
    if isinstance(element, Sequence) and not isinstance(element, str | bytes):
        return _polygon(element, height, width)
    raise DataError(f"expected a polygon or an RLE, got {shown(element)}")


def _polygon(numbers: Sequence[object], height: int, width: int) -> Rle:
    points = [float(n) for n in numbers if isinstance(n, int | float) and abs(n) <= _FAR * max(height, width)]
    if len(numbers) % 2 or len(numbers) < 6:
        raise DataError(f"polygon: expected 3 or more points (6 numbers, x and y by turns), got {len(numbers)} numbers")
    if len(points) < len(numbers):
        raise DataError(f"polygon: expected numbers near the image of {width} x {height} (width x height), got others")
    return cast(Rle, coco.frPyObjects([points], height, width)[0])


def _run_lengths(rle: Mapping[str, object], height: int, width: int) -> Rle:
    size, counts = rle.get("size"), rle.get("counts")
    if not isinstance(size, list | tuple) or list(size) != [height, width]:
        raise DataError(f"RLE: expected size [{height}, {width}] (height, width of the image), got {shown(size)}")
    if isinstance(counts, str):
        counts = counts.encode("utf-8", "surrogatepass")
    if isinstance(counts, bytes):
        runs = rle_counts(counts)
    elif isinstance(counts, list) and all(isinstance(n, int) and not isinstance(n, bool) for n in counts):
        runs = np.array([min(max(n, -1), _MAX_PIXELS + 1) for n in counts], np.int64)
    else:
        raise DataError(f"RLE: expected counts as a string or a list of integers, got {type(counts).__name__}")
    if (runs < 0).any() or runs.sum() != height * width:
        raise DataError(f"RLE: expected runs of 0 or more pixels, {height * width} in all, got {runs.sum()}")
    return cast(Rle, coco.frPyObjects({"size": [height, width], "counts": _canonical(runs)}, height, width))


def _canonical(runs: NDArray[np.int64]) -> list[int]:
    """The same mask without runs of 0 pixels after the first: pycocotools' ``iou`` stops early at two at once."""
    value = np.arange(len(runs)) % 2
    value, runs = value[runs > 0], runs[runs > 0]
    starts = np.flatnonzero(np.concatenate(([True], value[1:] != value[:-1])))
    merged = np.add.reduceat(runs, starts).tolist()
    return [0, *merged] if value[0] else merged


def _covered_once(parts: Sequence[Rle], height: int, width: int) -> Rle:
    """Pixels under exactly one part, from the run ends alone: no dense mask."""
    covered: dict[int, int] = {0: 0}
    for part in parts:
        edges = np.cumsum(rle_counts(cast(bytes, part["counts"])))
        for position, edge in enumerate(edges.tolist()):
            covered[edge] = covered.get(edge, 0) + (1 if position % 2 == 0 else -1)
    edges_in_order = sorted(covered)
    depth = np.cumsum([covered[edge] for edge in edges_in_order])
    runs: list[int] = [0]
    for (start, end), deep in zip(pairwise(edges_in_order), depth.tolist(), strict=False):
        if (deep == 1) != (len(runs) % 2 == 0):
            runs.append(0)
        runs[-1] += end - start
    return cast(Rle, coco.frPyObjects({"size": [height, width], "counts": runs}, height, width))
