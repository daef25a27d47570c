"""Which expressions the report shows, and their pictures."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby, islice
from multiprocessing import cpu_count
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from stages.contract import Context
from stages.page.data import Data
from stages.page.overlay import overlay
from stages.scoring.metrics import iou_of
from store.errors import DataError
from store.images import read_image
from store.segmentation import decode

KINDS = ("best", "worst", "differ")
_RANKED = 3
_THREADS = min(4, cpu_count())
_QUALITY = 80
_OUTLINED = 8
"""More outlines than this hide the picture."""


@dataclass(frozen=True)
class Ranked:
    """A proposal of a card: its score and IoU, and whether it is the choice of the run's rule and of its rival."""

    score: float
    iou: float
    chosen: bool
    rival: bool


@dataclass(frozen=True)
class Card:
    """One expression as shown. ``iou`` by rule is None without a choice; ``picture`` is a data URI or "" for a problem."""

    dataset: str
    split: str
    kinds: tuple[str, ...]
    expression_id: int
    ref_id: int
    image: str
    expression: str
    noun_phrase: str
    iou: dict[str, float | None]
    ranked: list[Ranked]
    proposals: int
    picture: str
    problem: str


def make_cards(data: Data, images: Path, count: int, width: int, seed: int, context: Context) -> list[Card]:
    """Cards of up to ``count`` expressions of each kind in each split, split by split; ``width`` in pixels."""
    picked = pick(data, count, seed)
    order = sorted(picked, key=lambda e: int(data.pairs["expression_image"][e]))
    by_image = [list(group) for _, group in groupby(order, key=lambda e: int(data.pairs["expression_image"][e]))]
    cards: dict[int, Card] = {}
    with ThreadPoolExecutor(_THREADS) as pool:  # decoding, resizing and encoding run outside Python's lock
        drawn = [pool.submit(_image_cards, data, images, expressions, picked, width) for expressions in by_image]
        for done in context.track(drawn, "pictures"):
            cards.update(done.result())
    return [cards[expression] for expression in picked]


def pick(data: Data, count: int, seed: int) -> dict[int, tuple[str, ...]]:
    """Expressions to show and the kinds they stand for, in order of split, kind and rank.

    best and worst by the IoU of the run's rule, differ by the gap between it and its rival where their choices differ.
    Equals are put in an order drawn from ``seed``; other images come before further expressions of one image.
    """
    picked: dict[int, tuple[str, ...]] = {}
    rival = data.rival or data.main
    ours, others = data.iou[data.main], data.iou[rival]
    chosen, rivals = data.chosen(data.main), data.chosen(rival)
    for group in range(len(data.groups)):
        members = np.flatnonzero((data.group == group) & data.evaluated)
        members = np.random.default_rng([seed, group]).permutation(members)
        decided = members[chosen[members] >= 0]
        different = decided[chosen[decided] != rivals[decided]]
        ranked = {
            "best": decided[np.argsort(-ours[decided], kind="stable")],
            "worst": members[np.argsort(ours[members], kind="stable")],
            "differ": different[np.argsort(-np.abs(ours - others)[different], kind="stable")],
        }
        for kind in KINDS:
            for expression in islice(_spread(ranked[kind], data.pairs["expression_image"]), count):
                picked[expression] = (*picked.get(expression, ()), kind)
    return picked


def _spread(expressions: NDArray[np.int64], image_of: NDArray[np.int64]) -> Iterable[int]:
    """The expressions, the first of each image before all further ones."""
    seen: set[int] = set()
    later = []
    for expression in expressions.tolist():
        if int(image_of[expression]) in seen:
            later.append(expression)
        else:
            seen.add(int(image_of[expression]))
            yield expression
    yield from later


def _image_cards(
    data: Data, images: Path, expressions: list[int], picked: dict[int, tuple[str, ...]], width: int
) -> dict[int, Card]:
    """Cards of expressions that share one image, which is read once."""
    row = int(data.pairs["expression_image"][expressions[0]])
    image, problem = _open(data, images, row)
    cards = {}
    for expression in expressions:
        ref = int(data.pairs["expression_ref"][expression])
        ranking = _ranking(data, expression)
        dataset, split = data.groups[data.group[expression]]
        cards[expression] = Card(
            dataset=dataset,
            split=split,
            kinds=picked[expression],
            expression_id=int(data.index["expression_id"][expression]),
            ref_id=int(data.index["ref_id"][ref]),
            image=data.index["image_name"][row],
            expression=data.index["expression_raw"][expression],
            noun_phrase=data.parse["noun_phrase"][expression],
            iou={
                rule: float(data.iou[rule][expression]) if _choice(data, expression, rule) is not None else None
                for rule in data.iou
            },
            ranked=_ranked(data, expression, ranking[:_RANKED]),
            proposals=len(ranking),
            picture=_data_uri(_draw(data, image, expression, ranking, width)) if image else "",
            problem=problem,
        )
    return cards


def _open(data: Data, images: Path, row: int) -> tuple[Image.Image | None, str]:
    """The image of a row of the index, or None and why there is none."""
    problem: str = data.index["image_status"][row]
    if problem:
        return None, problem
    try:
        return read_image(images, data.index["image_name"][row], data.index["image_digest"][row]), ""
    except DataError as error:
        return None, str(error)


def _choice(data: Data, expression: int, rule: str | None) -> int | None:
    """Row of the pair that a rule chose, None for none."""
    if rule is None:
        return None
    chosen = int(data.chosen(rule)[expression])
    return int(data.pairs["expression_offsets"][expression]) + chosen if chosen >= 0 else None


def _ranking(data: Data, expression: int) -> NDArray[np.int64]:
    """Rows of the expression's pairs that the score stage's filters admit, highest score first."""
    start, stop = data.pairs["expression_offsets"][expression : expression + 2]
    rows = np.arange(start, stop)
    proposal = data.pairs["proposal"][rows]
    score, area = (data.pairs[f"proposal_{name}"][proposal] for name in ("score", "area"))
    rows = rows[data.scoring.keeps(score, area, np.arange(len(rows)))]
    ranked: NDArray[np.int64] = rows[np.argsort(-data.scores["score"][rows], kind="stable")]
    return ranked


def _ranked(data: Data, expression: int, rows: NDArray[np.int64]) -> list[Ranked]:
    iou = iou_of(data.pairs["intersection"][rows], data.pairs["union"][rows])
    ours, rival = (_choice(data, expression, rule) for rule in (data.main, data.rival))
    scores = data.scores["score"][rows].tolist()
    return [Ranked(s, i, row == ours, row == rival) for s, i, row in zip(scores, iou.tolist(), rows, strict=True)]


def _draw(data: Data, image: Image.Image, expression: int, ranking: NDArray[np.int64], width: int) -> Image.Image:
    truth = data.index["ref_mask"][int(data.pairs["expression_ref"][expression])]
    ours, rival = (_choice(data, expression, rule) for rule in (data.main, data.rival))
    outlined = ranking[:_OUTLINED].tolist()
    rows = [*outlined, *(row for row in (ours, rival) if row is not None)]
    counts = [data.proposals["mask"][int(data.pairs["proposal"][row])] for row in rows]
    masks = decode([truth, *counts], image.height, image.width)
    by_row = dict(zip(rows, masks[1:], strict=True))
    return overlay(
        image,
        choice=None if ours is None else by_row[ours],
        truth=masks[0],
        rival=None if rival is None or rival == ours else by_row[rival],
        proposals=masks[1 : 1 + len(outlined)],
        tags=[str(rank + 1) for rank in range(_RANKED)],
        legend=False,
        width=width,
    )


def _data_uri(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=_QUALITY, method=2)  # 4 takes twice the time for 3 % of the size
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()
