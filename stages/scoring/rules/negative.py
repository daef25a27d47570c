"""Rule negative: less the mean cosine with the noun phrases of other objects (TAS, Suo et al., EMNLP 2023 Findings)."""

from __future__ import annotations

from pydantic import Field

from stages.scoring.fusion import Floats
from stages.scoring.others import others
from stages.scoring.rules.based import Based, base_cells, base_scores
from stages.scoring.rules.registry import RULES, Rule
from stages.scoring.table import LOCAL, PairTable, Scoring


class Settings(Based):
    """What is subtracted."""

    weight: float = Field(0.7, description="weight of the mean, 0.7 in TAS")
    view: str = Field(
        LOCAL, description="the feature that is compared with the phrases: a view, or mixed (alpha, as the base)"
    )


def scores(pairs: PairTable, scoring: Scoring, settings: Settings) -> Floats:
    """s - w mean_q 100 cos(f_L, q), float64 (P,); without other phrases s (the release yields NaN)."""
    mean, _ = others(pairs, scoring, settings.view).mean(len(pairs.union))
    return base_scores(pairs, scoring, settings.base) - settings.weight * mean


RULES.add(
    Rule(
        module=__name__,
        name="negative",
        label="Negative phrases",
        formula="s - w mean over other phrases q of 100 cos(f_L, q)",
        scores=scores,
        settings=Settings,
        needs=base_cells,
    )
)
