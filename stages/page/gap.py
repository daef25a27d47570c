"""Why a split's mIoU is not 1: what no proposal offered, what the choice lost; and where one feature alone is better."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.page.comparison import signed
from stages.page.data import Data
from stages.page.expressions import FAILED, Expressions
from stages.page.surface import Cut, cut
from stages.scoring.rules.registry import label_of

SINGLE = ("global", "cropping")
"""The rules of one visual feature alone, which global_local mixes."""
MIXED = "global_local"


@dataclass(frozen=True)
class Gap:
    """The gap of a split's mIoU to 1: proposal error + choice error, means over n expressions.

    Attributes:
        proposal_error: 1 less the IoU of the best proposal. choice_error: the regret, IoU of the best proposal less that
            of the choice.
        failed: expressions with IoU of at most ``FAILED``. proposal_failed: those of them whose best proposal has no more.
    """

    dataset: str
    split: str
    n: int
    miou: float
    proposal_error: float
    choice_error: float
    failed: int
    proposal_failed: int


def gaps(data: Data) -> list[Gap]:
    """The gap of every measured split."""
    ours, bound = data.iou[data.main], data.iou["upper_bound"]
    found = []
    for group in data.measured:
        rows = np.flatnonzero((data.group == group) & data.counted)
        if not len(rows):
            continue
        failed = ours[rows] <= FAILED
        found.append(
            Gap(
                *data.groups[group],
                n=len(rows),
                miou=float(ours[rows].mean()),
                proposal_error=float(1 - bound[rows].mean()),
                choice_error=float((bound[rows] - ours[rows]).mean()),
                failed=int(failed.sum()),
                proposal_failed=int((failed & (bound[rows] <= FAILED)).sum()),
            )
        )
    return found


@dataclass(frozen=True)
class Single:
    """A split where the feature of ``rule`` alone has a higher mIoU than the mixed ones.

    Attributes:
        miou, mixed: of the rule and of global_local. versus: difference with ``miou_ci`` and ``p``, {} where not known.
        differ: expressions where the two choose differently, of ``n``; ``better``: those where the rule has the higher
            IoU, ``worse``: the lower.
        with_words, without_words: mean difference of IoU, and number, of the expressions with a word of position or
            relation and of those without; None for no expression.
        alpha: in use. curve: mIoU over alpha at (about) the beta in use.
    """

    dataset: str
    split: str
    rule: str
    miou: float
    mixed: float
    versus: dict[str, Any]
    n: int
    differ: int
    better: int
    worse: int
    with_words: tuple[float, int] | None
    without_words: tuple[float, int] | None
    alpha: float
    curve: Cut


def singles(known: Expressions) -> list[Single]:
    """Every measured split and single feature where the run's rule global_local is behind; [] for another rule."""
    return list(_singles(known)) if known.data.main == MIXED else []


def _singles(known: Expressions) -> Iterator[Single]:
    data = known.data
    spatial = np.array([known.has_spatial_word(row) for row in range(len(data.group))], np.bool_)
    for group in data.measured:
        dataset, split = data.groups[group]
        content, used = data.metrics[dataset][split], data.point(group)
        for rule in SINGLE:
            if rule not in content or used is None or (content[rule]["miou"] or 0) <= (used["miou"] or 0):
                continue
            rows = np.flatnonzero((data.group == group) & data.counted)
            change = data.iou[rule][rows] - data.iou[MIXED][rows]
            yield Single(
                dataset,
                split,
                rule,
                miou=content[rule]["miou"],
                mixed=used["miou"],
                versus=content[rule].get("versus") or {},
                n=len(rows),
                differ=int((data.chosen(rule)[rows] != data.chosen(MIXED)[rows]).sum()),
                better=int((change > 0).sum()),
                worse=int((change < 0).sum()),
                with_words=_mean(change[spatial[rows]]),
                without_words=_mean(change[~spatial[rows]]),
                alpha=used["alpha"],
                curve=cut(data.grid, (dataset, split), "miou", "alpha", used["beta"]),
            )


def _counted(expressions: int) -> str:
    return f"{expressions:,} expression{'' if expressions == 1 else 's'}"


def _mean(values: NDArray[np.float64]) -> tuple[float, int] | None:
    return (float(values.mean()), len(values)) if len(values) else None


@dataclass(frozen=True)
class Choices:
    """The choices of a split without metrics.

    Attributes:
        expressions, chosen: how many there are, and how many have a choice. only: choices without another proposal.
        margin: quartiles of the margin, None where no choice has one.
        agree: expressions where the rival chose the same, of those that either chose for; None without a rival.
    """

    dataset: str
    split: str
    expressions: int
    chosen: int
    only: int
    margin: tuple[float, float, float] | None
    agree: int | None


def choices(known: Expressions) -> list[Choices]:
    """What there is to say about every split without metrics."""
    data = known.data
    margins, ours = known.margin, data.chosen(data.main)
    found = []
    for group in data.unmeasured:
        rows = np.flatnonzero((data.group == group) & data.usable)
        decided = rows[ours[rows] >= 0]
        defined = margins[decided][~np.isnan(margins[decided])]
        quartiles = np.percentile(defined, [25, 50, 75]).tolist() if len(defined) else None
        found.append(
            Choices(
                *data.groups[group],
                expressions=int((data.group == group).sum()),
                chosen=len(decided),
                only=len(decided) - len(defined),
                margin=None if quartiles is None else (quartiles[0], quartiles[1], quartiles[2]),
                agree=None if data.rival is None else int((data.chosen(data.rival)[decided] == ours[decided]).sum()),
            )
        )
    return found


def single_text(single: Single) -> str:
    """The finding in words: the numbers, and where to look.

    The causes of a difference are not in the tables, so none is named.
    """
    label, mixed = label_of(single.rule), label_of(MIXED).lower()
    more = f"{signed(100 * (single.miou - single.mixed))} points"
    if single.versus:
        low, high = (100 * bound for bound in single.versus["miou_ci"])
        what = "without 0" if low > 0 else "with 0 inside: the difference may be chance"
        more += f", 95 % interval {signed(low)} to {signed(high)}, {what}"
    means = [
        f"{signed(100 * part[0])} over {_counted(part[1])} {which} a word of position or relation"
        for part, which in ((single.without_words, "without"), (single.with_words, "with"))
        if part
    ]
    alpha, peak = single.curve.peak
    return (
        f"{label} has mIoU {100 * single.miou:.2f}, {mixed} {100 * single.mixed:.2f} ({more}). "
        f"They choose differently for {single.differ:,} of {single.n:,} expressions; {label.lower()} has the higher IoU for "
        f"{single.better:,} and the lower for {single.worse:,}. Mean difference of IoU in points: {', '.join(means)}. "
        f"Over α at β {single.curve.at:g} mIoU is highest at α {alpha:g} with {100 * peak:.2f}; α in use is {single.alpha:g}."
    )
