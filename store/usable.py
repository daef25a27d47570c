"""The rule by which every stage checks that its rows are usable.

It is part of the store because its result is stored: the attribute ``losses`` of an output says what its stage lost and
why, so that later stages, the metrics and the report can repeat it until it is fixed.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from store.errors import DataError

LOST_SHARE = 0.01
"""Up to this share of lost rows is stored without a warning: large data sets have a few bad files."""
_SHOWN = 3
_LONGEST = 400
_TINY = float(np.finfo(np.float32).tiny)


class Warned(Protocol):
    """What collects warnings and losses: the summary of a stage, whose ``losses`` become the attribute of its output."""

    warnings: list[str]
    losses: list[dict[str, Any]]
    transient: list[str]


@dataclass(frozen=True)
class Lost:
    """One unusable row: its state (``store.states``, or a source's own word), the reason, and which row it is."""

    state: str
    reason: str
    where: str


def require_usable(
    summary: Warned,
    what: str,
    total: int,
    lost: Iterable[Lost],
    remedy: str,
    empty: str = "check the stages before this one",
) -> None:
    """Raise if all of ``total`` rows are lost; warn if there are none, or more than ``LOST_SHARE`` of them are lost.

    Args:
        summary: its ``losses`` get a dict for each state of lost rows: ``state``, ``what``, ``count``, ``of`` and
            ``reasons``, the most frequent first, each with ``reason``, ``count`` and ``example``.
        what: the rows in the plural, for the message. lost: those that cannot be used. remedy: what to do about them;
            ``empty``: where there are no rows.

    Raises:
        DataError: there are rows, and none can be used; with the most frequent reasons and an example of each. Where files
            were not there (``summary.transient``) this is a warning: the stage ends as not done, and keeps what it has.
    """
    rows = list(lost)
    if not total:
        summary.warnings.append(f"there are no {what}: nothing to use; {empty}")
        return
    losses = _by_state(what, total, rows)
    if len(rows) >= total and not summary.transient:
        raise DataError(f"none of {total:,} {what} can be used: {_listed(losses)}; {remedy}")
    if len(rows) > LOST_SHARE * total:
        summary.warnings.append(f"{len(rows):,} of {total:,} {what} cannot be used: {_listed(losses)}; {remedy}")
    summary.losses += losses


def lost_vectors(features: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Which of the vectors (n, D) have no direction in float32, bool (n,); see ``lost_norms``."""
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        return lost_norms(np.einsum("nd,nd->n", features, features))


def lost_norms(squares: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Which squared lengths (any shape) belong to no usable vector: zero, denormal, infinite or NaN."""
    return ~((squares >= _TINY) & (squares < np.inf))


def pattern(reason: str) -> str:
    """A reason without its row-specific parts: quoted names, paths and numbers become an ellipsis."""
    return re.sub(r"'[^']*'|\S*[/\d]\S*", "…", reason)


def _by_state(what: str, total: int, rows: list[Lost]) -> list[dict[str, Any]]:
    counts: dict[str, Counter[str]] = {}
    examples: dict[tuple[str, str], Lost] = {}
    for row in rows:
        kind = pattern(row.reason)
        counts.setdefault(str(row.state), Counter())[kind] += 1
        examples.setdefault((str(row.state), kind), row)
    return [
        {
            "state": state,
            "what": what,
            "count": reasons.total(),
            "of": total,
            "reasons": [
                {"reason": kind, "count": count, "example": _example(examples[state, kind])}
                for kind, count in reasons.most_common(_SHOWN)
            ],
        }
        for state, reasons in sorted(counts.items(), key=lambda entry: -entry[1].total())
    ]


def _example(row: Lost) -> str:
    text = row.reason if row.reason.startswith(row.where) else f"{row.where}: {row.reason}"
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def _listed(losses: list[dict[str, Any]]) -> str:
    return "; ".join(
        f"{reason['count']:,} x {loss['state']}, such as {reason['example']}"
        for loss in losses
        for reason in loss["reasons"]
    )
