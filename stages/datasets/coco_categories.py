"""The 80 categories of COCO's detection task, by name and by the ids that its annotations give them."""

from __future__ import annotations

import re

_UNUSED = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)
"""Ids from 1 to 90 of categories that were planned and have no object."""
_NAMES = re.split(
    r",\s+",
    """person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, stop sign,
    parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, backpack, umbrella,
    handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat, baseball glove, skateboard,
    surfboard, tennis racket, bottle, wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange,
    broccoli, carrot, hot dog, pizza, donut, cake, chair, couch, potted plant, bed, dining table, toilet, tv, laptop,
    mouse, remote, keyboard, cell phone, microwave, oven, toaster, sink, refrigerator, book, clock, vase, scissors,
    teddy bear, hair drier, toothbrush""",
)
COCO_CATEGORIES = frozenset(_NAMES)
CATEGORY_NAMES = dict(zip((number for number in range(1, 91) if number not in _UNUSED), _NAMES, strict=True))
"""Category id -> name."""
