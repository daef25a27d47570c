"""Every product that scoring needs: each view times each text by pair, and the views' and the texts' own products.

After these no vector is needed again: with A = f_G.t_G, B = f_G.t_L, C = f_L.t_G, D = f_L.t_L and the squared lengths, the
score for any weights of views and of texts is arithmetic (`stages.scoring.fusion`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import combinations_with_replacement
from multiprocessing import cpu_count

import numpy as np
from numpy.typing import NDArray

from stages.contract import Context
from store.ragged import offsets_of
from store.vectors import SHARD_ROWS, Vectors

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
TEXTS = ("sentence", "phrase")
"""The texts of every expression: the whole sentence t_G, the target noun phrase t_L (paper sec. 3.3)."""
TOGETHER = 8  # images whose features stay in the cache from one column to the next


def dot_name(view: str, text: str) -> str:
    """The column of a view times a text, by pair."""
    return f"dot.{view}*{text}"


def view_product_name(view: str, other: str) -> str:
    """The column of two views of a proposal multiplied, by proposal; the order of the two does not matter."""
    return "view_product." + "*".join(sorted((view, other)))


def text_product_name(text: str, other: str) -> str:
    """The column of two texts of an expression multiplied, by expression; the order of the two does not matter."""
    return "text_product." + "*".join(sorted((text, other)))


def ranges(starts: Ints, counts: Ints) -> Ints:
    """start, start + 1, ... for each of the ranges, one after another."""
    offsets = offsets_of(counts)
    return np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], counts)


def text_rows(text: Vectors) -> Ints:
    """The rows of the text features that each expression's texts are, int64 (E, T), in the order of ``TEXTS``."""
    return np.stack([text.column(f"{name}_string") for name in TEXTS], 1)


def product_columns(
    masks: Vectors, text: Vectors, image_offsets: Ints, image: Ints, context: Context
) -> dict[str, Floats]:
    """The float32 columns ``dot.*`` (P,), ``view_product.*`` (N,) and ``text_product.*`` (E,).

    Args:
        image_offsets: proposals of each image (I+1,). image: of each expression (E,).
    """
    order = np.argsort(image, kind="stable")
    counts = np.diff(image_offsets)[image]
    rows, vectors, views = text_rows(text), text.rows("feature"), masks.members("view")
    pairs, proposals = int(counts.sum()), int(image_offsets[-1])
    job = Products(
        image_offsets=image_offsets,
        image_expressions=np.searchsorted(image[order], np.arange(len(image_offsets))),
        pair_offsets=offsets_of(counts[order]),
        strings=rows[order],
        vectors=vectors,
        dots={dot_name(view, name): np.empty(pairs, np.float32) for view in views for name in TEXTS},
        view_products={
            view_product_name(*two): np.zeros(proposals, np.float32) for two in combinations_with_replacement(views, 2)
        },
    )
    with ThreadPoolExecutor(cpu_count()) as pool:
        for first, last in context.track(list(image_blocks(image_offsets)), "image blocks"):
            base, stop = image_offsets[first], image_offsets[last]
            features = {view: masks.rows(f"view.{view}", base, stop) for view in views}
            runs = [(i, min(i + TOGETHER, last)) for i in range(first, last, TOGETHER)]
            list(pool.map(partial(job.fill, base=base, features=features), runs))
    dots = job.dots
    if not np.array_equal(order, np.arange(len(order))):
        starts = np.empty_like(job.pair_offsets[:-1])
        starts[order] = job.pair_offsets[:-1]
        places = ranges(starts, counts)
        dots = {name: column[places] for name, column in dots.items()}
    return {**dots, **job.view_products, **_text_products(vectors, rows)}


def _text_products(vectors: Floats, rows: Ints) -> dict[str, Floats]:
    columns = {}
    for (i, name), (j, other) in combinations_with_replacement(enumerate(TEXTS), 2):
        columns[text_product_name(name, other)] = (vectors[rows[:, i]] * vectors[rows[:, j]]).sum(1, dtype=np.float32)
    return columns


@dataclass(frozen=True)
class Products:
    """The products of each image's texts with its proposals, expressions in the order of their images.

    Attributes:
        image_offsets: proposals of each image (I+1,). image_expressions: its expressions (I+1,).
        pair_offsets: their pairs (E+1,).
        strings: rows of ``vectors`` for each text (E, T). vectors: text features (S, D).
        dots: columns (P,) to fill. view_products: columns (N,) to fill.
    """

    image_offsets: Ints
    image_expressions: Ints
    pair_offsets: Ints
    strings: Ints
    vectors: Floats
    dots: dict[str, Floats]
    view_products: dict[str, Floats]

    def fill(self, images: tuple[int, int], base: int, features: Mapping[str, Floats]) -> None:
        """Fill in the columns of images (first, last), whose features by view stand in ``features`` from row ``base`` on."""
        from stages.scoring.products_kernel import multiply_images, multiply_rows

        start, stop = self.image_offsets[images[0]], self.image_offsets[images[1]]
        for view, rows in features.items():
            dots = [self.dots[dot_name(view, name)] for name in TEXTS]
            multiply_images(
                *images,
                self.image_offsets,
                self.image_expressions,
                self.pair_offsets,
                self.strings,
                self.vectors,
                base,
                rows,
                *dots,
            )
            for other, other_rows in features.items():
                if other >= view:
                    first, second = rows[start - base : stop - base], other_rows[start - base : stop - base]
                    multiply_rows(first, second, self.view_products[view_product_name(view, other)][start:stop])


def image_blocks(image_offsets: Ints) -> Iterator[tuple[int, int]]:
    """Runs of images (first, last) that own about a shard of proposals: vectors are read in large pieces."""
    first = 0
    while first < len(image_offsets) - 1:
        last = int(np.searchsorted(image_offsets, image_offsets[first] + SHARD_ROWS, "right")) - 1
        last = min(max(last, first + 1), len(image_offsets) - 1)
        yield first, last
        first = last
