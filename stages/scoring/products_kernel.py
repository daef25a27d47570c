"""The loops behind ``stages.scoring.products``, compiled by numba: a numpy call for each image costs more than the products.

All functions stand in one file, for numba keeps compiled code by the file.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ints = NDArray[np.integer]
TEXTS = 4  # multiplied at a time, with three proposals: their sums are what the registers hold

compiled = njit(cache=True, nogil=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz"})


@compiled
def multiply_images(
    first: int,
    last: int,
    image_offsets: Ints,
    owned: Ints,
    pair_offsets: Ints,
    strings: Ints,
    vectors: Floats,
    base: int,
    features: Floats,
    sentence: Floats,
    phrase: Floats,
) -> None:
    """Multiply one view by two texts, for images ``first`` to ``last``; arguments as of ``products.Products``.

    Args:
        features: of proposals ``base`` on (M, D). strings: the two texts of each expression, rows of ``vectors`` (E, 2).
        sentence, phrase: ``features`` times the first and the second text, by pair (P,), to fill.
    """
    most = 0
    for image in range(first, last):
        most = max(most, owned[image + 1] - owned[image])
    texts = np.zeros((2 * most + TEXTS, vectors.shape[1]), np.float32)
    for image in range(first, last):
        begin, stop = owned[image], owned[image + 1]
        start, count = image_offsets[image], image_offsets[image + 1] - image_offsets[image]
        if begin == stop:
            continue
        for e in range(stop - begin):
            texts[2 * e] = vectors[strings[begin + e, 0]]
            texts[2 * e + 1] = vectors[strings[begin + e, 1]]
        for i in range(0, count, 3):
            j, k = min(i + 1, count - 1), min(i + 2, count - 1)  # at the end the last proposal is multiplied again
            x, y, z = features[start - base + i], features[start - base + j], features[start - base + k]
            for e in range(0, stop - begin, TEXTS // 2):
                of = texts[2 * e : 2 * e + TEXTS]
                a, b, c, d, p, q, r, s, t, u, v, w = _twelve(x, y, z, of[0], of[1], of[2], of[3])
                place = pair_offsets[begin + e]
                sentence[place + i], phrase[place + i] = a, b
                sentence[place + j], phrase[place + j] = p, q
                sentence[place + k], phrase[place + k] = t, u
                if e + 1 < stop - begin:
                    place = pair_offsets[begin + e + 1]
                    sentence[place + i], phrase[place + i] = c, d
                    sentence[place + j], phrase[place + j] = r, s
                    sentence[place + k], phrase[place + k] = v, w


@compiled
def multiply_rows(x: Floats, y: Floats, products: Floats) -> None:
    """Row by row: x (M, D) times y (M, D) into ``products`` (M,)."""
    for row in range(len(x)):
        total = np.float32(0)
        for i in range(x.shape[1]):
            total += x[row, i] * y[row, i]
        products[row] = total


@compiled
def multiply_listed(
    listed: Ints,
    owner: Ints,
    row: Ints,
    starts: Ints,
    image_offsets: Ints,
    vectors: Floats,
    base: int,
    features: Floats,
    dots: Floats,
) -> None:
    """Multiply texts, any number for an expression, with the proposals of their images.

    Args:
        listed: which texts (M,), places in the next three. owner: the image of each text (X,). row: of ``vectors`` (X,).
        starts: where its products begin (X,). features: of proposals ``base`` on. dots: (Y,), to fill.
    """
    for place in listed:
        image, text = owner[place], vectors[row[place]]
        for proposal in range(image_offsets[image], image_offsets[image + 1]):
            feature, total = features[proposal - base], np.float32(0)
            for i in range(len(text)):
                total += feature[i] * text[i]
            dots[starts[place] + proposal - image_offsets[image]] = total


@compiled
def multiply_all(features: Floats, vectors: Floats, dots: Floats) -> None:
    """Multiply each row of ``features`` (M, D) with each of ``vectors`` (G, D) into ``dots`` (M, G).

    As matrices their last bits would depend on how many rows are multiplied at a time.
    """
    for row in range(len(features)):
        for other in range(len(vectors)):
            total = np.float32(0)
            for i in range(features.shape[1]):
                total += features[row, i] * vectors[other, i]
            dots[row, other] = total


@compiled
def add_cell(
    scores: Floats, dots: Floats, by_expression: Floats, by_proposal: Floats, offsets: Ints, proposal: Ints
) -> None:
    """Add one weighted cell: ``scores`` += ``by_expression`` x ``by_proposal`` x ``dots``, for all pairs (P,).

    The pairs of an expression are proposals in a row: only the first is looked up.
    """
    for expression in range(len(offsets) - 1):
        start, stop, share = offsets[expression], offsets[expression + 1], by_expression[expression]
        if start == stop:
            continue
        own, cell, length = scores[start:stop], dots[start:stop], by_proposal[proposal[start] :]
        for i in range(stop - start):
            own[i] += share * length[i] * cell[i]


@compiled
def _twelve(x: Floats, y: Floats, z: Floats, k: Floats, l: Floats, m: Floats, n: Floats) -> tuple[np.float32, ...]:
    a = b = c = d = p = q = r = s = t = u = v = w = np.float32(0)
    for i in range(len(x)):
        a += x[i] * k[i]
        b += x[i] * l[i]
        c += x[i] * m[i]
        d += x[i] * n[i]
        p += y[i] * k[i]
        q += y[i] * l[i]
        r += y[i] * m[i]
        s += y[i] * n[i]
        t += z[i] * k[i]
        u += z[i] * l[i]
        v += z[i] * m[i]
        w += z[i] * n[i]
    return a, b, c, d, p, q, r, s, t, u, v, w
