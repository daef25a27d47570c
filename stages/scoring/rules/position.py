"""Rule position: a mask counts as far as it lies where the sentence places the target (prior of HybridGL, CVPR 2025)."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from stages.scoring.fusion import Floats
from stages.scoring.others import columns_of
from stages.scoring.rules.based import Based, base_cells, base_scores
from stages.scoring.rules.registry import RULES, Rule
from stages.scoring.table import PairTable, Scoring

_LEAST = 1e-3


class Settings(Based):
    """How much the place counts."""

    weight: float = Field(1.0, ge=0, description="exponent of the prior")


def scores(pairs: PairTable, scoring: Scoring, settings: Settings) -> Floats:
    """s + w log of the product of the priors' means inside the mask, float64 (P,): softmax(s) x prior^w ranks alike."""
    columns = columns_of(pairs)
    named = np.repeat(columns["expression_position"], np.diff(pairs.offsets), 0)
    logs = np.log(np.maximum(columns["proposal_prior"].astype(np.float64), _LEAST))[columns["proposal"]]
    prior: Floats = settings.weight * np.where(named, logs, 0).sum(1)
    return base_scores(pairs, scoring, settings.base) + prior


RULES.add(
    Rule(
        module=__name__,
        name="position",
        label="Position prior",
        formula="s + w log(product of the means inside m of the priors that the sentence names)",
        scores=scores,
        settings=Settings,
        needs=base_cells,
    )
)
