"""The products behind ``stages.pairs``, image after image, compiled by numba: a call for each in numpy costs more than they.

All functions stand in one file, for numba keeps compiled code by the file.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ints = NDArray[np.integer]
TEXTS = 4  # multiplied at a time, with two proposals: what the registers hold

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
    others: Floats,
    sentence: Floats,
    phrase: Floats,
    norm: Floats,
    cross: Floats,
) -> None:
    """Fill in the columns of images ``first`` to ``last``; arguments as of ``pairs.Products``.

    Args:
        features, others: of proposals ``base`` on (M, D). sentence, phrase: ``features`` times the two texts, by pair (P,).
        norm, cross: ``features`` times themselves, and times ``others``, by proposal (N,).
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
        for row in range(0, count, 2):
            pair = row, min(row + 1, count - 1)  # of an odd number the last is multiplied twice
            x, y = features[start - base + pair[0]], features[start - base + pair[1]]
            norm[start + pair[0]], cross[start + pair[0]] = _two(x, x, others[start - base + pair[0]])
            norm[start + pair[1]], cross[start + pair[1]] = _two(y, y, others[start - base + pair[1]])
            for e in range(0, stop - begin, TEXTS // 2):
                own = texts[2 * e : 2 * e + TEXTS]
                a, b, c, d, p, q, r, s = _eight(x, y, own[0], own[1], own[2], own[3])
                place = pair_offsets[begin + e]
                sentence[place + pair[0]], phrase[place + pair[0]] = a, b
                sentence[place + pair[1]], phrase[place + pair[1]] = p, q
                if e + 1 < stop - begin:
                    place = pair_offsets[begin + e + 1]
                    sentence[place + pair[0]], phrase[place + pair[0]] = c, d
                    sentence[place + pair[1]], phrase[place + pair[1]] = r, s


@compiled
def _two(x: Floats, y: Floats, z: Floats) -> tuple[np.float32, np.float32]:
    a = b = np.float32(0)
    for i in range(len(x)):
        a += x[i] * y[i]
        b += x[i] * z[i]
    return a, b


@compiled
def _eight(x: Floats, y: Floats, k: Floats, l: Floats, m: Floats, n: Floats) -> tuple[np.float32, ...]:
    a = b = c = d = p = q = r = s = np.float32(0)
    for i in range(len(x)):
        a += x[i] * k[i]
        b += x[i] * l[i]
        c += x[i] * m[i]
        d += x[i] * n[i]
        p += y[i] * k[i]
        q += y[i] * l[i]
        r += y[i] * m[i]
        s += y[i] * n[i]
    return a, b, c, d, p, q, r, s
