"""oIoU and mIoU at every point of an alpha x beta grid: the values of scoring each point, without scoring each point.

``plain_surface`` says what is meant. ``surface`` gives the same numbers, bit for bit, from three facts:

1. At a fixed alpha an expression's score of proposal p is m X_p + n Y_p (``fusion.leans`` and ``fusion.text_shares``): X and
   Y do not depend on beta, and the shares m, n >= 0 do not depend on p. So p can win nowhere along beta if one proposal
   beats it in X alone and at some mixture of X and Y, and another at that mixture and in Y alone: every (m, n) lies between
   two of these three directions. Tested on the least and greatest X and Y over a few neighbouring alphas at once, this
   leaves two to five of 60 proposals, the candidates.
2. A candidate that wins at two betas, each time by a margin, wins between them: its lead is linear in (m, n).
3. What is added over expressions are whole numbers (pixels, ``metrics.iou_units``): adding only the changes along beta
   gives the same sums.

Rounding. With u = 2^-24 and M the greatest |X| or |Y|, a float32 score is off by at most 2.1 u (m + n) M, a difference of two
by 4.2 u (m + n) M, and the compared mixtures by 5 u M; so a lead of ``MARGIN`` M = 16 u M, per unit of m + n, is proof. That
holds where nothing over- or underflows (``_candidates``); elsewhere the margin is infinite. What is not proved is evaluated
with the very operations of ``Dots.scores``, which decide equal scores too: the first proposal wins.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing import cpu_count

import numpy as np
from numpy.typing import NDArray

from stages.base import Context
from stages.fusion import Floats, first_best, leans, mixed, text_shares
from stages.metrics import Empty, iou_of, iou_units, ratios, summarise
from stages.pair_table import PairTable

Ints = NDArray[np.integer]
MARGIN = np.float32(2.0**-20)
SAFE = 2.0**100
LEAST_STEP = 1e-5  # betas nearer to each other are not taken to lie between others: rounding could swap their shares
ALPHAS = 8  # neighbouring alphas that share their candidates
FLOATS = 1 << 19  # of one array: small enough for the cache, large enough for numpy


def plain_surface(
    pairs: PairTable, alphas: NDArray[np.float64], betas: NDArray[np.float64], empty: Empty
) -> dict[str, NDArray[np.float64]]:
    """``surface`` as it is defined: all pairs scored, and all expressions summed, at every grid point."""
    shape = (len(pairs.groups), len(alphas), len(betas))
    values = {"oiou": np.zeros(shape), "miou": np.zeros(shape)}
    members = [pairs.members(group) for group in range(len(pairs.groups))]
    for i, alpha in enumerate(alphas):
        for j, beta in enumerate(betas):
            outcome = pairs.outcome(first_best(pairs.dots.scores(float(alpha), float(beta)), pairs.offsets))
            for group, rows in enumerate(members):
                summed = summarise(outcome.at(rows), empty)
                for name, target in values.items():
                    target[group, i, j] = summed[name] or 0.0
    return values


def surface(
    pairs: PairTable, alphas: NDArray[np.float64], betas: NDArray[np.float64], empty: Empty, context: Context
) -> dict[str, NDArray[np.float64]]:
    """``oiou`` and ``miou``, each (groups, A, B), fractions, at every grid point; an empty group gives 0.

    Args:
        pairs: filtered as wanted. alphas (A,), betas (B,): any order. empty: see ``metrics.summarise``.
    """
    order = np.argsort(betas, kind="stable")
    grid = Grid(np.asarray(alphas, np.float32), np.asarray(betas, np.float32)[order])
    counts = np.diff(pairs.offsets)
    sums = np.zeros((3, len(pairs.groups), len(alphas), len(betas)), np.int64)
    n = np.zeros(len(pairs.groups), np.int64)
    for group in range(len(pairs.groups)):
        rows = pairs.members(group)
        nothing = rows[counts[rows] == 0] if empty == "count" else rows[:0]
        sums[1, group] += pairs.area[nothing].sum()
        n[group] = len(nothing) + np.count_nonzero(counts[rows])
    blocks = list(_blocks(pairs, len(betas)))
    with ThreadPoolExecutor(cpu_count()) as pool:
        done = pool.map(lambda block: _block_sums(pairs, block, grid), blocks)
        for block, own in zip(context.track(blocks, "blocks of expressions"), done, strict=True):
            sums[:, block.group] += own
    values = {"oiou": np.zeros(sums.shape[1:]), "miou": np.zeros(sums.shape[1:])}
    for group in range(len(pairs.groups)):
        inter, union, units = sums[:, group]
        for name, found in ratios(inter, union, units, int(n[group])).items():
            values[name][group][:, order] = found
    return values


@dataclass(frozen=True)
class Grid:
    """float32 alphas (A,), and ascending betas (B,)."""

    alphas: Floats
    betas: Floats

    @property
    def knots(self) -> Ints:
        """Positions of the betas at which all candidates are scored, the first and the last among them."""
        last = len(self.betas) - 1
        if last < 4 or np.diff(self.betas.astype(np.float64)).min() < LEAST_STEP:
            return np.arange(last + 1)
        return np.append(np.arange(0, last, math.isqrt(last)), last)


@dataclass(frozen=True)
class Block:
    """Evaluated expressions (E,) of one group that have the same number N > 0 of proposals."""

    group: int
    rows: Ints
    proposals: int


def _blocks(pairs: PairTable, betas: int) -> Iterator[Block]:
    counts = np.diff(pairs.offsets)
    for group in range(len(pairs.groups)):
        members = pairs.members(group)
        for proposals in np.unique(counts[members]):
            if proposals:
                rows = members[counts[members] == proposals]
                size = max(1, FLOATS // (ALPHAS * max(int(proposals), betas)))
                yield from (Block(group, rows[i : i + size], int(proposals)) for i in range(0, len(rows), size))


def _block_sums(pairs: PairTable, block: Block, grid: Grid) -> Ints:
    """Sums of intersection, union and IoU units over a block's expressions at every grid point: (3, A, B)."""
    at = pairs.offsets[block.rows][:, None] + np.arange(block.proposals)
    dots = pairs.dots
    columns = tuple(column[at] for column in dots.columns)
    inter, union = pairs.intersection[at].ravel(), pairs.union[at].ravel()
    gains = inter, union, iou_units(iou_of(inter, union))
    shares = text_shares(dots.text_norms[block.rows], grid.betas[:, None], dots.score_rule)
    sums = np.zeros((3, len(grid.alphas), len(grid.betas)), np.int64)
    for first in range(0, len(grid.alphas), ALPHAS):
        near = slice(first, first + ALPHAS)
        found = leans(columns, grid.alphas[near, None, None], dots.score_rule)
        start, changes = _choices(*found, *shares, grid.knots)
        for own, gain in zip(sums[:, near], gains, strict=True):
            own[:, 0] += gain[start].sum(1)
            np.add.at(own, (changes.alpha, changes.beta), gain[changes.new] - gain[changes.old])
    return np.cumsum(sums, axis=2)


@dataclass(frozen=True)
class Changes:
    """Where along beta a choice changes: at which alpha and beta (positions), from and to which pair, all (C,)."""

    alpha: Ints
    beta: Ints
    old: Ints
    new: Ints


def _choices(x: Floats, y: Floats, m: Floats, n: Floats, knots: Ints) -> tuple[Ints, Changes]:
    """The pair, 0 to E N - 1, that each expression chooses at the first beta (A, E), and the changes after it.

    Args:
        x, y: leans toward sentence and phrase (A, E, N). m, n: their shares (B, E). knots: see ``Grid``.
    """
    margin, keep = _candidates(x, y, m + n)
    pair = np.flatnonzero(keep)
    number = np.count_nonzero(keep, axis=1)
    first = np.cumsum(number) - number
    start = np.broadcast_to(pair[first], x.shape[:2]).copy()

    order = np.argsort(-number, kind="stable")[: np.count_nonzero(number > 1)]
    number, first, margin, m, n = number[order], first[order], margin[order], m[:, order], n[:, order]
    x, y = (lean.reshape(len(lean), -1)[:, pair].ravel() for lean in (x, y))
    position = first + len(pair) * np.arange(len(start))[:, None]  # of the first candidate, in x and in y (A, E)

    choice, lead = _winners(x, y, position, number, m[knots, None], n[knots, None])
    start[:, order] = pair[first + choice[0]]
    sure = lead > (margin * (m + n)[knots])[:, None]
    same = choice[1:] == choice[:-1]
    proved = same & ((sure[1:] & sure[:-1]) | (np.diff(knots) == 1)[:, None, None])

    expression, alpha, span = np.nonzero(~proved.T)
    beta = np.minimum(knots[span] + np.arange(np.diff(knots).max(initial=0) + 1)[:, None], knots[span + 1])
    choice, _ = _winners(
        x, y, position[alpha, expression], number[expression], m[beta, expression], n[beta, expression]
    )
    step, at = np.nonzero(choice[1:] != choice[:-1])
    base = first[expression[at]]
    old, new = pair[base + choice[step, at]], pair[base + choice[step + 1, at]]
    return start, Changes(alpha[at], beta[step + 1, at], old, new)


def _candidates(x: Floats, y: Floats, total: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    """For every expression the lead that is proof (E,), and the proposals (E, N) that are not proved to win nowhere.

    Args:
        x, y: leans (A, E, N). total: m + n at every beta (B, E).
    """
    low_x, high_x, low_y, high_y = x.min(0), x.max(0), y.min(0), y.max(0)
    greatest = np.max([high_x.max(1), -low_x.min(1), high_y.max(1), -low_y.min(1)], axis=0)
    scale = greatest.astype(np.float64)
    safe = (scale > 1 / SAFE) & (scale * total.min(0) > 1 / SAFE) & (scale * total.max(0) < SAFE)
    margin = np.where(safe, MARGIN * greatest, np.float32(np.inf))

    rows = np.arange(len(low_x))
    by_x, by_y = low_x.argmax(1), low_y.argmax(1)
    top_x, top_y = low_x[rows, by_x], low_y[rows, by_y]
    fall_x, fall_y = top_x - low_x[rows, by_y], top_y - low_y[rows, by_x]
    p = fall_y / np.maximum(fall_x + fall_y, np.finfo(np.float32).tiny)  # where both leaders score alike
    q = np.float32(1) - p
    crossing = np.minimum(p * top_x + q * low_y[rows, by_x], p * low_x[rows, by_y] + q * top_y)
    beaten = high_x < (top_x - margin)[:, None]
    beaten &= high_y < (top_y - margin)[:, None]
    beaten &= mixed(p[:, None], q[:, None], high_x, high_y) < (crossing - margin)[:, None]
    return margin, ~beaten


def _winners(x: Floats, y: Floats, position: Ints, number: Ints, m: Floats, n: Floats) -> tuple[Ints, Floats]:
    """Which candidate wins each contest, 0 for its first one, which also wins ties; and its lead over the next one.

    Args:
        x, y: leans of all candidates (C,). position: of the first candidate of R contests (..., R); the others follow it.
        number: of candidates (R,), falling: those with a k-th one come first, for any k. m, n: shares (J, ..., R).

    Returns:
        Two arrays (J, ..., R).
    """
    best = mixed(m, n, x[position], y[position])
    second = np.full_like(best, -np.inf)
    choice = np.zeros(best.shape, np.int32)
    falling = -number
    for k in range(1, int(number[0]) if len(number) else 0):
        rows = np.searchsorted(falling, -k)
        at = position[..., :rows] + k
        score = mixed(m[..., :rows], n[..., :rows], x[at], y[at])
        top, next_ = best[..., :rows], second[..., :rows]
        np.copyto(choice[..., :rows], k, where=score > top)
        np.maximum(next_, np.minimum(score, top), out=next_)
        np.maximum(top, score, out=top)
    return choice, best - second
