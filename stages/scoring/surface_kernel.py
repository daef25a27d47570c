"""The loop behind ``stages.scoring.surface``, over expressions one after another, compiled by numba.

Its float32 operations are those of ``fusion.projections`` and ``fusion.mixed``, in the same order, and compiled without
reordering or contraction: the same bits. All functions stand in one file, for numba keeps compiled code by the file.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ints = NDArray[np.integer]
ALPHAS = 8  # neighbouring alphas that share their candidates
MARGIN = np.float32(2.0**-20)
SAFE = 2.0**100
TINY = np.finfo(np.float32).tiny
ZERO, ONE, TWO = np.float32(0), np.float32(1), np.float32(2)
INFINITE = np.float32(np.inf)

compiled = njit(cache=True, nogil=True, error_model="numpy")


@compiled
def add_expressions(
    rows: Ints,
    offsets: Ints,
    columns: tuple[Floats, ...],
    cosine: bool,
    alphas: Floats,
    m: Floats,
    n: Floats,
    provable: bool,
    gains: tuple[Ints, ...],
    sums: NDArray[np.int64],
) -> int:
    """Add to ``sums`` (3, A, B) what the chosen pairs of expressions ``rows`` (R,) gain, as changes along beta.

    ``np.cumsum`` over the last axis then gives the sums at every grid point.

    Args:
        offsets: pairs of each expression of the table (E+1,). columns: ``Dots.columns`` (P,). cosine: the score rule.
        alphas: (A,). m, n: shares of the projections (R, B), betas ascending. provable: whether a choice between two betas may
            be proved at all. gains: three whole numbers of each pair (P,).

    Returns:
        How often an expression was scored at a grid point: wherever the choice could not be proved.
    """
    most = 0
    for row in rows:
        most = max(most, offsets[row + 1] - offsets[row])
    x, y = np.empty((ALPHAS, most), np.float32), np.empty((ALPHAS, most), np.float32)
    ranges, candidates = np.empty((4, most), np.float32), np.empty(most, np.int64)
    spans = np.empty((64, 4), np.int64)
    scored = 0
    for r in range(len(rows)):
        first, stop = offsets[rows[r]], offsets[rows[r] + 1]
        count = stop - first
        if not count:
            continue
        for start in range(0, len(alphas), ALPHAS):
            near = min(ALPHAS, len(alphas) - start)
            for i in range(near):
                _projections(columns, first, stop, alphas[start + i], cosine, x[i, :count], y[i, :count])
            margin, number = _candidates(x[:near, :count], y[:near, :count], m[r], n[r], ranges, candidates)
            if not provable:
                margin = INFINITE
            for i in range(near):
                scored += _add_choices(
                    x[i], y[i], candidates[:number], m[r], n[r], margin, first, gains, sums[:, start + i], spans
                )
    return scored


@compiled
def _projections(
    columns: tuple[Floats, ...], first: int, stop: int, alpha: np.float32, cosine: bool, x: Floats, y: Floats
) -> None:
    """``fusion.projections`` of pairs ``first`` to ``stop``, into x and y."""
    a, b, c, d = columns[0][first:stop], columns[1][first:stop], columns[2][first:stop], columns[3][first:stop]
    global_norm, cross_norm, local_norm = columns[4][first:stop], columns[5][first:stop], columns[6][first:stop]
    rest = ONE - alpha
    square, cross, remaining = alpha * alpha, TWO * alpha * rest, rest * rest
    for p in range(len(a)):
        sentence, phrase = alpha * a[p], alpha * b[p]
        sentence += rest * c[p]
        phrase += rest * d[p]
        if cosine:
            length = square * global_norm[p]
            length += cross * cross_norm[p]
            length += remaining * local_norm[p]
            inverse = ONE / np.sqrt(max(length, TINY))
            sentence *= inverse
            phrase *= inverse
        x[p], y[p] = sentence, phrase


@compiled
def _candidates(x: Floats, y: Floats, m: Floats, n: Floats, ranges: Floats, candidates: Ints) -> tuple[np.float32, int]:
    """The lead that suffices as proof, per unit of m + n, and the number of candidates: proposals that may win somewhere.

    Args:
        x, y: projections (A, N). m, n: shares (B,). ranges: room (4, N). candidates: their places are written here (N,).
    """
    count = x.shape[1]
    low_x, high_x, low_y, high_y = ranges[0, :count], ranges[1, :count], ranges[2, :count], ranges[3, :count]
    for p in range(count):
        low_x[p] = high_x[p] = x[0, p]
        low_y[p] = high_y[p] = y[0, p]
    for i in range(1, len(x)):
        for p in range(count):
            low_x[p], high_x[p] = min(low_x[p], x[i, p]), max(high_x[p], x[i, p])
            low_y[p], high_y[p] = min(low_y[p], y[i, p]), max(high_y[p], y[i, p])
    by_x = by_y = 0
    greatest = ZERO
    for p in range(count):
        by_x = p if low_x[p] > low_x[by_x] else by_x
        by_y = p if low_y[p] > low_y[by_y] else by_y
        greatest = max(greatest, max(max(high_x[p], -low_x[p]), max(high_y[p], -low_y[p])))
    least = most = m[0] + n[0]
    for j in range(1, len(m)):
        total = m[j] + n[j]
        least, most = min(least, total), max(most, total)
    scale = np.float64(greatest)
    safe = scale > 1 / SAFE and scale * least > 1 / SAFE and scale * most < SAFE
    margin = MARGIN * greatest if safe else INFINITE

    top_x, top_y = low_x[by_x], low_y[by_y]
    fall_x, fall_y = top_x - low_x[by_y], top_y - low_y[by_x]
    s = fall_y / max(fall_x + fall_y, TINY)  # the mixture at which both leaders score alike
    t = ONE - s
    crossing = min(s * top_x + t * low_y[by_x], s * low_x[by_y] + t * top_y) - margin
    top_x -= margin
    top_y -= margin
    number = 0
    for p in range(count):
        if not ((high_x[p] < top_x) & (high_y[p] < top_y) & (s * high_x[p] + t * high_y[p] < crossing)):
            candidates[number] = p
            number += 1
    return margin, number


@compiled
def _add_choices(
    x: Floats,
    y: Floats,
    candidates: Ints,
    m: Floats,
    n: Floats,
    margin: np.float32,
    first: int,
    gains: tuple[Ints, ...],
    sums: NDArray[np.int64],
    spans: NDArray[np.int64],
) -> int:
    """Add one expression's gains at one alpha to ``sums`` (3, B); return at how many betas it was scored.

    The betas are halved again and again; a span whose ends one candidate wins, both by more than ``margin``, is done.

    Args:
        spans: room for the spans still to do: their ends, and who wins there, ~choice where the lead is no proof.
    """
    last = len(m) - 1
    old = _winner(x, y, candidates, m[0], n[0], margin)
    _add(gains, first + candidates[_choice(old)], sums, 0, 1)
    if len(candidates) == 1 or last == 0:
        return 1
    scored, waiting = 2, 1
    spans[0] = 0, last, old, _winner(x, y, candidates, m[last], n[last], margin)
    while waiting:
        waiting -= 1
        left, right, old, new = spans[waiting]
        if old == new and old >= 0:
            continue
        if right - left > 1:
            middle = (left + right) // 2
            between = _winner(x, y, candidates, m[middle], n[middle], margin)
            scored += 1
            spans[waiting] = middle, right, between, new
            spans[waiting + 1] = left, middle, old, between
            waiting += 2
        elif _choice(old) != _choice(new):
            _add(gains, first + candidates[_choice(old)], sums, right, -1)
            _add(gains, first + candidates[_choice(new)], sums, right, 1)
    return scored


@compiled
def _winner(x: Floats, y: Floats, candidates: Ints, m: np.float32, n: np.float32, margin: np.float32) -> int:
    """Which candidate scores best, the first one on ties; as ~choice unless it leads by more than margin (m + n)."""
    best, second, choice = -INFINITE, -INFINITE, 0
    for k in range(len(candidates)):
        p = candidates[k]
        score = m * x[p]
        score += n * y[p]
        if score > best:
            best, second, choice = score, best, k
        elif score > second:
            second = score
    return choice if best - second > margin * (m + n) else ~choice


@compiled
def _choice(winner: int) -> int:
    return winner if winner >= 0 else ~winner


@compiled
def _add(gains: tuple[Ints, ...], pair: int, sums: NDArray[np.int64], beta: int, sign: int) -> None:
    inter, union, units = gains
    sums[0, beta] += sign * inter[pair]
    sums[1, beta] += sign * union[pair]
    sums[2, beta] += sign * units[pair]
