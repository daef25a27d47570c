"""Boxes of an image's masks: from dense masks, decoded first, and from run lengths."""

from __future__ import annotations

import numpy as np
import torch

from benchmarks.harness import Result, medians
from stages.proposals.boxes import RULES, boxes_by_rule
from stages.proposals.decode import mask_boxes
from store.masks import decode, encode

HEIGHT, WIDTH, MASKS = 480, 640, 100


def boxes() -> Result:
    """Both rules for 100 ragged ellipses of 480 x 640."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    masks = np.zeros((MASKS, HEIGHT, WIDTH), np.bool_)
    for mask in masks:
        centre, radius = rng.uniform(0, (HEIGHT, WIDTH)), rng.uniform(20, 200, 2)
        distance = ((y - centre[0]) / radius[0]) ** 2 + ((x - centre[1]) / radius[1]) ** 2
        mask[:] = distance < 1 + 0.2 * np.sin(y / 9 + x / 7)
    counts = encode(masks)

    def plain() -> list[torch.Tensor]:
        dense = torch.from_numpy(decode(counts, HEIGHT, WIDTH))
        return [mask_boxes(dense, rule) for rule in RULES]

    ours = boxes_by_rule(counts, HEIGHT, WIDTH)
    error = max(float(np.abs(ours[rule] - its.numpy()).max()) for rule, its in zip(RULES, plain(), strict=True))
    return Result(
        "boxes", *medians(plain, lambda: boxes_by_rule(counts, HEIGHT, WIDTH)), error=error, note="error in pixels"
    )
