"""Products beyond the two texts of an expression: the noun phrases of other objects, and the mean sentence of each group.

An expression has any number of other phrases, so their products are ragged: expression by expression, phrase by phrase, the
proposals of its image in order. Rules ask for them one by one (ReCLIP's entities), as their mean (TAS) or their sum
(HybridGL). The bank of captions (FGVP) is one vector a group, and class names are the same for all expressions, so a proposal
has one product with each.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from multiprocessing import cpu_count

import numpy as np
from numpy.typing import NDArray

from stages.contract import Context
from stages.scoring.products import Floats, Ints, image_blocks
from store.ragged import offsets_of
from store.usable import lost_norms
from store.vectors import Vectors


def other_dot_name(view: str) -> str:
    """The column of a view times the other phrases, by (phrase, proposal)."""
    return f"other_dot.{view}"


def bank_dot_name(view: str) -> str:
    """The column of a view times the mean sentence of each group, by proposal."""
    return f"bank_dot.{view}"


def class_dot_name(view: str) -> str:
    """The column of a view times each class name, by proposal."""
    return f"class_dot.{view}"


def other_columns(
    masks: Vectors, text: Vectors, image_offsets: Ints, image: Ints, bank: Floats, context: Context
) -> dict[str, NDArray[np.generic]]:
    """The columns ``other_offsets`` (E+1,), ``other_product`` (X,), ``other_sum_product`` (E,), ``other_dot.*`` (Y,),
    ``bank_dot.*`` (N, G) and, where there are class names, ``class_dot.*`` (N, C).

    Args:
        image_offsets: proposals of each image (I+1,). image: of each expression (E,). bank: see ``bank_of`` (G, D).
    """
    from stages.scoring.products_kernel import multiply_all, multiply_listed

    offsets, strings = text.column("other_offsets"), text.column("other_string")
    used, row = np.unique(strings, return_inverse=True)
    vectors = (
        np.ascontiguousarray(text.rows("feature")[used]) if len(used) else np.zeros((0, bank.shape[1]), np.float32)
    )
    squares = (vectors * vectors).sum(1, dtype=np.float32)
    vectors[lost_norms(squares)] = 0
    squares[lost_norms(squares)] = 0
    owner = np.repeat(image, np.diff(offsets))
    order = np.argsort(owner, kind="stable")
    starts = offsets_of(np.diff(image_offsets)[owner])[:-1]
    first_of_image = np.searchsorted(owner[order], np.arange(len(image_offsets)))
    total, views = int(np.diff(image_offsets)[owner].sum()), masks.members("view")
    sums = np.zeros((len(image), vectors.shape[1]), np.float32)
    np.add.at(sums, np.repeat(np.arange(len(image)), np.diff(offsets)), vectors[row])
    columns: dict[str, NDArray[np.generic]] = {
        "other_offsets": offsets,
        "other_product": squares[row],
        "other_sum_product": (sums * sums).sum(1, dtype=np.float32),
    }
    dots = {view: np.empty(total, np.float32) for view in views}
    names = _unit(text.rows("feature")[text.column("class_string")])
    fixed = np.ascontiguousarray(np.concatenate([bank, names]))
    products = {view: np.empty((int(image_offsets[-1]), len(fixed)), np.float32) for view in views}

    def fill(view: str, first: int, last: int) -> None:
        base, stop = int(image_offsets[first]), int(image_offsets[last])
        features = masks.rows(f"view.{view}", base, stop)
        multiply_all(features, fixed, products[view][base:stop])
        listed = order[first_of_image[first] : first_of_image[last]]
        multiply_listed(listed, owner, row, starts, image_offsets, vectors, base, features, dots[view])

    with ThreadPoolExecutor(cpu_count()) as pool:
        for first, last in context.track(list(image_blocks(image_offsets)), "image blocks"):
            list(pool.map(lambda view, run=(first, last): fill(view, *run), views))
    columns |= {other_dot_name(view): column for view, column in dots.items()}
    columns |= {bank_dot_name(view): column[:, : len(bank)].copy() for view, column in products.items()}
    if len(names):
        columns |= {class_dot_name(view): column[:, len(bank) :].copy() for view, column in products.items()}
    return columns


def _unit(vectors: Floats) -> Floats:
    """Vectors (C, D) of length 1; 0 for one that is lost."""
    squares = (vectors.astype(np.float64) ** 2).sum(1)
    lost = lost_norms(squares.astype(np.float32))
    unit: Floats = np.where(lost, 0, 1 / np.sqrt(np.where(lost, 1, squares)))[:, None] * np.where(
        lost[:, None], 0, vectors
    )
    return unit.astype(np.float32)


def bank_of(text: Vectors, group: NDArray[np.integer], groups: int) -> Floats:
    """The mean of the unit vectors of each group's distinct sentences, float32 (G, D); 0 for a group without any.

    Args:
        group: of each expression (E,). groups: how many there are (G).
    """
    sentence, vectors = text.column("sentence_string"), text.rows("feature")
    bank = np.zeros((groups, text.width), np.float32)
    for number in range(groups):
        own = vectors[np.unique(sentence[group == number])].astype(np.float64)
        lengths = np.sqrt((own * own).sum(1))
        usable = ~lost_norms((lengths * lengths).astype(np.float32))
        if usable.any():
            bank[number] = (own[usable] / lengths[usable, None]).mean(0)
    return bank
