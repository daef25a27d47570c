"""Rule subtraction: less what a mask answers to any caption (FGVP, Yang et al., NeurIPS 2023, "S"; TAS's N-score)."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from stages.scoring.fusion import Floats
from stages.scoring.others import MIXED, columns_of, visual
from stages.scoring.rules.based import Based, base_cells, base_scores
from stages.scoring.rules.registry import RULES, Rule
from stages.scoring.table import PairTable, Scoring
from store.errors import ParameterError, nearest

OWN = "own"


class Settings(Based):
    """What is subtracted."""

    weight: float = Field(1.0, description="lambda")
    bank: str = Field(
        OWN,
        description="whose captions: own (those of the split that is evaluated: transductive), or <data set>/<split>",
    )
    view: str = Field(
        MIXED, description="the feature that is compared with the bank: mixed (alpha, as the base), or a view"
    )


def scores(pairs: PairTable, scoring: Scoring, settings: Settings) -> Floats:
    """s - lambda 100 f^ . tbar, float64 (P,)."""
    columns, counts = columns_of(pairs), np.diff(pairs.offsets)
    names = ["/".join(group) for group in pairs.groups]
    if settings.bank != OWN and settings.bank not in names:
        raise ParameterError(
            f"rules.settings.subtraction.bank: no split {settings.bank!r}; {nearest(settings.bank, names)}"
        )
    group = pairs.group if settings.bank == OWN else np.full(len(counts), names.index(settings.bank))
    place = (columns["proposal"], np.repeat(group, counts))
    bank = visual(pairs, scoring, settings.view).times(lambda view: columns.bank_dot(view)[place])
    return base_scores(pairs, scoring, settings.base) - settings.weight * 100 * bank


RULES.add(
    Rule(
        module=__name__,
        name="subtraction",
        label="Subtraction",
        formula="s - lambda 100 f^.tbar, tbar the mean unit vector of a split's sentences",
        scores=scores,
        settings=Settings,
        needs=base_cells,
    )
)
