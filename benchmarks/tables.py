"""Synthetic features and pair tables of the sizes that benchmarks need: random, but mixed as those of one CLIP are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stages.scoring.fusion import Dots
from stages.scoring.table import PairTable
from store.ragged import offsets_of

Floats = NDArray[np.float32]
VAL = 10_834
"""Expressions of RefCOCO val."""
FULL = 66_000
"""Expressions of val and test of RefCOCO, RefCOCO+ and RefCOCOg, about."""
PROPOSALS = 60
PER_IMAGE = 7  # expressions that share an image and so its proposals
GROUPS = [("refcoco", "val"), ("refcoco", "testA"), ("refcoco", "testB"), ("refcoco+", "val"), ("refcoco+", "testA")]
GROUPS += [("refcoco+", "testB"), ("refcocog", "val"), ("refcocog", "test"), ("refcocog_google", "val")]


@dataclass(frozen=True)
class Features:
    """f_global, f_local (images, proposals, width); texts: sentences, then phrases (2 x expressions, width); image (E,)."""

    f_global: Floats
    f_local: Floats
    texts: Floats
    image: NDArray[np.int64]

    @property
    def t_global(self) -> Floats:
        return self.texts[: len(self.image)]

    @property
    def t_local(self) -> Floats:
        return self.texts[len(self.image) :]


def features(expressions: int, proposals: int = PROPOSALS, width: int = 512, seed: int = 0) -> Features:
    """Random features; the two of a mask, and of an expression, have a cosine of about 0.6."""
    rng = np.random.default_rng(seed)
    images = -(-expressions // PER_IMAGE)

    def two(*shape: int) -> tuple[Floats, Floats]:
        one, other = (rng.standard_normal((*shape, width), np.float32) for _ in range(2))
        other *= np.float32(0.8)
        other += np.float32(0.6) * one
        return one, other

    return Features(*two(images, proposals), np.concatenate(two(expressions)), np.arange(expressions) // PER_IMAGE)


def pair_table(
    expressions: int, proposals: int = PROPOSALS, groups: int = 1, width: int = 64, seed: int = 0
) -> PairTable:
    """A pair table of random features, as narrow as changes nothing in what is measured, and random overlaps."""
    made = features(expressions, proposals, width, seed)
    rng = np.random.default_rng(seed + 1)
    image, pairs = made.image, expressions * proposals

    def dots(visual: Floats, text: Floats) -> Floats:
        column = np.empty((expressions, proposals), np.float32)
        for i, own in enumerate(visual):
            rows = slice(i * PER_IMAGE, (i + 1) * PER_IMAGE)
            np.matmul(text[rows], own.T, out=column[rows])
        return column.ravel()

    def norms(x: Floats, y: Floats) -> Floats:
        return np.vecdot(x, y)[image].ravel()

    f_global, f_local, t_global, t_local = made.f_global, made.f_local, made.t_global, made.t_local
    text_norms = np.stack([np.vecdot(t_global, t_global), np.vecdot(t_local, t_local), np.vecdot(t_global, t_local)], 1)
    table = Dots(
        offsets=offsets_of(np.full(expressions, proposals)),
        a=dots(f_global, t_global),
        b=dots(f_global, t_local),
        c=dots(f_local, t_global),
        d=dots(f_local, t_local),
        global_norm=norms(f_global, f_global),
        cross_norm=norms(f_global, f_local),
        local_norm=norms(f_local, f_local),
        text_norms=text_norms,
    )
    intersection = rng.integers(0, 20_000, pairs)
    return PairTable(
        dots=table,
        groups=GROUPS[:groups],
        group=(np.arange(expressions) * groups // expressions).astype(np.int32),
        image=image,
        ref=np.arange(expressions) // 3,
        area=rng.integers(1, 20_000, expressions),
        evaluated=np.ones(expressions, np.bool_),
        truncated=np.zeros(expressions, np.bool_),
        intersection=intersection,
        union=intersection + rng.integers(1, 20_000, pairs),
        proposal_score=rng.random(pairs, np.float32),
        proposal_area=rng.integers(100, 30_000, pairs),
        kept=np.tile(np.arange(proposals), expressions),
    )


def size_of(table: PairTable) -> int:
    """Bytes of a table's arrays."""
    arrays = [*vars(table).values(), *vars(table.dots).values()]
    return sum(array.nbytes for array in arrays if isinstance(array, np.ndarray))
