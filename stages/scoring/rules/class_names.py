"""Rule class_names: more where a mask is of the expression rather than of any class name of a fixed list (VIRO's score)."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from stages.scoring.fusion import Floats
from stages.scoring.others import MIXED, columns_of, visual
from stages.scoring.rules.based import Based, base_cells, base_scores
from stages.scoring.rules.registry import RULES, Rule
from stages.scoring.table import PairTable, Scoring


class Settings(Based):
    """How masks are compared with the class names."""

    weight: float = Field(1.0, description="weight of the logarithm")
    tau: float = Field(1.0, gt=0, description="temperature: how many points of a cosine x 100 count")
    view: str = Field(
        MIXED, description="the feature that is compared with the names: mixed (alpha, as the base), or a view"
    )


def scores(pairs: PairTable, scoring: Scoring, settings: Settings) -> Floats:
    """s + w log mean_k sigmoid((s - s_k) / tau), float64 (P,), s_k = 100 cos(f, t_k); by logarithms, so that none is 0."""
    columns, base = columns_of(pairs), base_scores(pairs, scoring, settings.base)
    proposal, feature = columns["proposal"], visual(pairs, scoring, settings.view)
    number = columns.class_dot(next(iter(feature.shares))).shape[1]
    usable = np.isfinite(base)
    total = np.full(len(base), -np.inf)
    for k in range(number):
        rival = 100 * feature.times(lambda view, k=k: columns.class_dot(view)[proposal, k])  # type: ignore[misc]
        ahead = (np.where(usable, base, 0) - rival) / settings.tau
        total = np.logaddexp(total, -np.logaddexp(0, -ahead))
    found: Floats = np.where(usable, base + settings.weight * (total - np.log(number)), -np.inf)
    return found


RULES.add(
    Rule(
        module=__name__,
        name="class_names",
        label="Class names",
        formula="s + w log mean over class names k of sigmoid((s - 100 cos(f, t_k)) / tau)",
        scores=scores,
        settings=Settings,
        needs=base_cells,
    )
)
