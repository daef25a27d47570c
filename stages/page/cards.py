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
from stages.page.expressions import Expressions, Facts
from stages.page.overlay import overlay
from stages.scoring.metrics import iou_of
from store.errors import DataError
from store.images import read_image
from store.segmentation import decode

MEASURED = {"best": "best", "worst": "worst", "differ": "choices differ"}
"""Kinds of pictures of a split with a ground truth, and what the page calls them."""
UNMEASURED = {"wide": "widest margin", "narrow": "narrowest margin", "differ": "choices differ"}
"""Kinds of pictures of a split without."""
_RANKED = 3
_THREADS = min(4, cpu_count())
_QUALITY = 80
_OUTLINED = 8
"""More outlines than this hide the picture."""


@dataclass(frozen=True)
class Ranked:
    """A proposal of a card: its score, its IoU (None without a ground truth), and whether it is the choice of the run's
    rule and of its rival."""

    score: float
    iou: float | None
    chosen: bool
    rival: bool


@dataclass(frozen=True)
class Card:
    """One expression as shown. ``iou`` by rule is None without a choice or a ground truth; ``picture`` is a data URI or ""
    for a problem."""

    facts: Facts
    kinds: tuple[str, ...]
    iou: dict[str, float | None]
    ranked: list[Ranked]
    proposals: int
    picture: str
    problem: str


def make_cards(known: Expressions, images: Path, count: int, width: int, seed: int, context: Context) -> list[Card]:
    """Cards of up to ``count`` expressions of each kind in each split, split by split; ``width`` in pixels."""
    data = known.data
    picked = pick(known, count, seed)
    order = sorted(picked, key=lambda e: int(data.pairs["expression_image"][e]))
    by_image = [list(group) for _, group in groupby(order, key=lambda e: int(data.pairs["expression_image"][e]))]
    facts = {expression: known.facts(expression) for expression in picked}
    cards: dict[int, Card] = {}
    with ThreadPoolExecutor(_THREADS) as pool:  # decoding, resizing and encoding run outside Python's lock
        drawn = [pool.submit(_image_cards, data, images, expressions, facts, picked, width) for expressions in by_image]
        for done in context.track(drawn, "pictures"):
            cards.update(done.result())
    return [cards[expression] for expression in picked]


def pick(known: Expressions, count: int, seed: int) -> dict[int, tuple[str, ...]]:
    """Expressions to show and the kinds they stand for, in order of split, kind and rank.

    Where there is a ground truth: best and worst by the IoU of the run's rule, differ by the gap between it and its rival
    where their choices differ. Elsewhere: wide and narrow by the margin of its choice, differ by the narrowest. Equals
    are put in an order drawn from ``seed``; other images come before further expressions of one image.
    """
    picked: dict[int, tuple[str, ...]] = {}
    data = known.data
    measured = data.measured
    for group in range(len(data.groups)):
        shown = data.evaluated if group in measured else data.usable
        members = np.flatnonzero((data.group == group) & shown)
        members = np.random.default_rng([seed, group]).permutation(members)
        ranked = _by_iou(data, members) if group in measured else _by_margin(known, members)
        for kind, order in ranked.items():
            for expression in islice(_spread(order, data.pairs["expression_image"]), count):
                picked[expression] = (*picked.get(expression, ()), kind)
    return picked


def _by_iou(data: Data, members: NDArray[np.int64]) -> dict[str, NDArray[np.int64]]:
    """Kind -> ``members`` of that kind, the first to be shown first."""
    ours, others = data.iou[data.main], data.iou[data.rival or data.main]
    decided, different = _decided(data, members)
    return {
        "best": decided[np.argsort(-ours[decided], kind="stable")],
        "worst": members[np.argsort(ours[members], kind="stable")],
        "differ": different[np.argsort(-np.abs(ours - others)[different], kind="stable")],
    }


def _by_margin(known: Expressions, members: NDArray[np.int64]) -> dict[str, NDArray[np.int64]]:
    """Kind -> ``members`` of that kind, the first to be shown first; a choice without another proposal is the surest."""
    margin = np.nan_to_num(known.margin, nan=np.inf)
    decided, different = _decided(known.data, members)
    several = decided[np.isfinite(margin[decided])]
    return {
        "wide": decided[np.argsort(-margin[decided], kind="stable")],
        "narrow": several[np.argsort(margin[several], kind="stable")],
        "differ": different[np.argsort(margin[different], kind="stable")],
    }


def _decided(data: Data, members: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The ``members`` for which the run's rule chose, and those of them for which its rival chose otherwise."""
    chosen, rivals = data.chosen(data.main), data.chosen(data.rival or data.main)
    decided = members[chosen[members] >= 0]
    return decided, decided[chosen[decided] != rivals[decided]]


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
    data: Data,
    images: Path,
    expressions: list[int],
    facts: dict[int, Facts],
    picked: dict[int, tuple[str, ...]],
    width: int,
) -> dict[int, Card]:
    """Cards of expressions that share one image, which is read once."""
    image, problem = _open(data, images, int(data.pairs["expression_image"][expressions[0]]))
    cards = {}
    for expression in expressions:
        ranking = _ranking(data, expression)
        cards[expression] = Card(
            facts=facts[expression],
            kinds=picked[expression],
            iou={rule: _iou(data, expression, rule) for rule in data.iou},
            ranked=_ranked(data, expression, ranking[:_RANKED]),
            proposals=len(ranking),
            picture=_data_uri(_draw(data, image, expression, ranking, width)) if image else "",
            problem=problem,
        )
    return cards


def _iou(data: Data, expression: int, rule: str) -> float | None:
    """IoU of what a rule chose; None without a choice or a ground truth."""
    measured = data.evaluated[expression] and _choice(data, expression, rule) is not None
    return float(data.iou[rule][expression]) if measured else None


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
    overlaps: list[float | None] = iou_of(data.pairs["intersection"][rows], data.pairs["union"][rows]).tolist()
    if not data.evaluated[expression]:
        overlaps = [None] * len(rows)
    ours, rival = (_choice(data, expression, rule) for rule in (data.main, data.rival))
    scores = data.scores["score"][rows].tolist()
    return [Ranked(s, i, row == ours, row == rival) for s, i, row in zip(scores, overlaps, rows, strict=True)]


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
