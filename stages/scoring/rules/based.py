"""What the rules share that correct another rule's scores."""

from __future__ import annotations

import numpy as np
from pydantic import Field, field_validator

from stages.contract import Params
from stages.scoring.fusion import Floats
from stages.scoring.rules.registry import RULES, Cell
from stages.scoring.table import PairTable, Scoring


class Based(Params):
    """The rule whose scores are corrected."""

    base: str = Field("global_local", description="the rule that is corrected, with its default settings")

    @field_validator("base")
    @classmethod
    def _is_known(cls, name: str) -> str:
        return RULES.checked(name)


def base_cells(scoring: Scoring, settings: Based) -> list[Cell]:
    """The cells that the base reads: the ``needs`` of a rule that reads no other."""
    rule = RULES[settings.base]
    return rule.needs(scoring, rule.settings())


def base_scores(pairs: PairTable, scoring: Scoring, base: str) -> Floats:
    """Scores of all pairs by rule ``base``, float64 (P,); -inf for a pair that is lost."""
    rule = RULES[base]
    scores = rule.scores(pairs, scoring, rule.settings())
    return np.where(pairs.lost, -np.inf, scores.astype(np.float64))
