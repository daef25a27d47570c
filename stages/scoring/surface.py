"""oIoU and mIoU at every point of an alpha x beta grid: the values of scoring each point, without scoring each point.

``plain_surface`` says what is meant. ``surface`` gives the same numbers, bit for bit, from three facts:

1. At a fixed alpha an expression's score of proposal p is m X_p + n Y_p (``fusion.projections`` and ``fusion.text_shares``):
   X and Y do not depend on beta, and the shares m, n >= 0 do not depend on p. So p cannot win at any beta if one proposal
   beats it in X alone and at some mixture of X and Y, and another at that mixture and in Y alone: every (m, n) lies between
   two of these three directions. Tested on the least and greatest X and Y over a few neighbouring alphas at once, this
   leaves two to five of 60 proposals, the candidates.
2. A candidate that wins at two betas, each time by a margin, wins between them: its lead is linear in (m, n).
3. What is added over expressions are whole numbers (pixels, ``metrics.iou_units``): adding only the changes along beta
   gives the same sums.

Rounding. With u = 2^-24 and M the greatest |X| or |Y|, a float32 score is off by at most 2.1 u (m + n) M, a difference of two
by 4.2 u (m + n) M, and the compared mixtures by 5 u M; so a lead of ``MARGIN`` M = 16 u M, per unit of m + n, is proof. That
holds where nothing over- or underflows (`surface_kernel`); elsewhere the margin is infinite. What is not proved is evaluated
with the very operations of ``Dots.scores``, which decide equal scores too: the first proposal wins.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing import cpu_count

import numpy as np
from numpy.typing import NDArray

from stages.contract import Context
from stages.scoring.fusion import Floats, first_best, text_shares
from stages.scoring.metrics import Empty, iou_of, iou_units, ratios, summarise
from stages.scoring.table import PairTable

Ints = NDArray[np.integer]
LEAST_STEP = 1e-5  # betas nearer to each other are not taken to lie between others: rounding could swap their shares
EXPRESSIONS = 256  # of one run: enough work for a thread to take, and their shares stay in the cache


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
    gains = pairs.intersection, pairs.union, iou_units(iou_of(pairs.intersection, pairs.union))
    filled = np.diff(pairs.offsets) > 0
    sums = np.zeros((3, len(pairs.groups), len(alphas), len(betas)), np.int64)
    n = np.zeros(len(pairs.groups), np.int64)
    runs: list[tuple[int, Ints]] = []
    for group in range(len(pairs.groups)):
        rows = pairs.members(group)
        nothing = rows[~filled[rows]] if empty == "count" else rows[:0]
        sums[1, group] += pairs.area[nothing].sum()
        rows = rows[filled[rows]]
        n[group] = len(nothing) + len(rows)
        runs += [(group, rows[i : i + EXPRESSIONS]) for i in range(0, len(rows), EXPRESSIONS)]
    with ThreadPoolExecutor(cpu_count()) as pool:
        done = pool.map(lambda run: _sums(pairs, run[1], grid, gains), runs)
        for (group, _), run_sums in zip(context.track(runs, "runs of expressions"), done, strict=True):
            sums[:, group] += run_sums
    values = {"oiou": np.zeros(sums.shape[1:]), "miou": np.zeros(sums.shape[1:])}
    for group in range(len(pairs.groups)):
        inter, union, units = sums[:, group]
        for name, ratio in ratios(inter, union, units, int(n[group])).items():
            values[name][group][:, order] = ratio
    return values


def load_kernel() -> None:
    """Load the compiled loop, or compile it at the first use on a machine: worth doing while the table is read."""
    from stages.scoring.surface_kernel import add_expressions

    rows, one, shares = np.zeros(0, np.int64), np.ones(1, np.float32), np.ones((0, 1), np.float32)
    sums = np.zeros((3, 1, 1), np.int64)
    add_expressions(rows, rows, (one,) * 7, True, one, shares, shares, True, (rows,) * 3, sums)


@dataclass(frozen=True)
class Grid:
    """float32 alphas (A,), and ascending betas (B,)."""

    alphas: Floats
    betas: Floats

    @property
    def provable(self) -> bool:
        """Whether a choice at two betas can say anything about those between."""
        return bool(np.diff(self.betas.astype(np.float64)).min(initial=1) >= LEAST_STEP)


def _sums(pairs: PairTable, rows: Ints, grid: Grid, gains: tuple[Ints, ...]) -> NDArray[np.int64]:
    """Sums of intersection, union and IoU units over expressions ``rows`` at every grid point: (3, A, B)."""
    from stages.scoring.surface_kernel import add_expressions

    dots = pairs.dots
    shares = text_shares(dots.text_norms[rows, None], grid.betas, dots.score_rule)
    changes = np.zeros((3, len(grid.alphas), len(grid.betas)), np.int64)
    cosine = dots.score_rule == "cosine"
    add_expressions(rows, dots.offsets, dots.columns, cosine, grid.alphas, *shares, grid.provable, gains, changes)
    return np.cumsum(changes, axis=2)
