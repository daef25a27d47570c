"""Boxes and overlaps of masks: of pixels, decoded first, and of run lengths."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from pycocotools import mask as coco

from benchmarks.harness import Result, medians
from benchmarks.roofline import Work
from stages.proposals.boxes import RULES, boxes_by_rule
from stages.proposals.decode import mask_boxes
from store.overlap_counts import overlap_counts
from store.segmentation import as_rle, decode, encode

HEIGHT, WIDTH, MASKS, TRUTHS = 480, 640, 100, 3


def ellipses(count: int) -> NDArray[np.bool_]:
    """Ragged ellipses, bool (count, HEIGHT, WIDTH)."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    masks = np.zeros((count, HEIGHT, WIDTH), np.bool_)
    for mask in masks:
        centre, radius = rng.uniform(0, (HEIGHT, WIDTH)), rng.uniform(20, 200, 2)
        distance = ((y - centre[0]) / radius[0]) ** 2 + ((x - centre[1]) / radius[1]) ** 2
        mask[:] = distance < 1 + 0.2 * np.sin(y / 9 + x / 7)
    return masks


def decoding() -> Result:
    """100 ragged ellipses of 480 x 640 from run lengths to pixels: by pycocotools, and by the columns they reach."""
    counts = encode(ellipses(MASKS))

    def plain() -> NDArray[np.bool_]:
        return np.ascontiguousarray(coco.decode([as_rle(own, HEIGHT, WIDTH) for own in counts]).transpose(2, 0, 1)) > 0

    def ours() -> NDArray[np.bool_]:
        return decode(counts, HEIGHT, WIDTH)

    return Result("decode", *medians(plain, ours), error=float((ours() != plain()).sum()), note="error in pixels")


def boxes() -> Result:
    """Both rules for 100 ragged ellipses of 480 x 640: from dense masks, decoded first, and from run lengths."""
    counts = encode(ellipses(MASKS))

    def plain() -> list[torch.Tensor]:
        dense = torch.from_numpy(decode(counts, HEIGHT, WIDTH))
        return [mask_boxes(dense, rule) for rule in RULES]

    ours = boxes_by_rule(counts, HEIGHT, WIDTH)
    error = max(float(np.abs(ours[rule] - its.numpy()).max()) for rule, its in zip(RULES, plain(), strict=True))
    return Result(
        "boxes", *medians(plain, lambda: boxes_by_rule(counts, HEIGHT, WIDTH)), error=error, note="error in pixels"
    )


def overlap() -> Result:
    """Intersection and union of an image's 100 proposals with the masks of 3 refs: of pixels, and of run lengths."""
    masks = ellipses(MASKS + TRUTHS)
    counts = encode(masks)
    rles = [as_rle(own, HEIGHT, WIDTH) for own in counts]

    def plain() -> NDArray[np.int64]:
        dense = decode(counts, HEIGHT, WIDTH)
        pairs = [[((a & b).sum(), (a | b).sum()) for b in dense[MASKS:]] for a in dense[:MASKS]]
        return np.array(pairs).transpose(2, 0, 1)

    def ours() -> NDArray[np.int64]:
        return np.stack(overlap_counts(rles[:MASKS], rles[MASKS:]))

    error = float(np.abs(ours() - plain()).max())
    runs = [2 * len(np.flatnonzero(np.diff(mask.ravel(order="F")))) for mask in masks]
    read = TRUTHS * sum(runs[:MASKS]) + MASKS * sum(runs[MASKS:])  # every pair reads both masks' runs, four bytes each
    work = Work(0, 4 * read / 1e9)
    return Result("overlap", *medians(plain, ours), error=error, note="error in pixels", stage="overlap", work=work)
