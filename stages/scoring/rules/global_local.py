"""Rule global_local: 100 cos(f, t) of the mixed features (Yu et al., CVPR 2023, sec. 3.3 and 3.4)."""

from __future__ import annotations

from stages.contract import Params
from stages.scoring.fusion import Floats
from stages.scoring.products import TEXTS
from stages.scoring.rules.registry import RULES, Rule
from stages.scoring.table import LOCAL, PairTable, Scoring


def scores(pairs: PairTable, scoring: Scoring, settings: Params) -> Floats:
    """At each data set's own alpha."""
    return pairs.dots.scores(pairs.alphas(scoring), scoring.beta)


RULES.add(
    Rule(
        module=__name__,
        name="global_local",
        label="Global-local",
        formula="100 cos(alpha f_G + (1 - alpha) f_L, beta t_G + (1 - beta) t_L)",
        scores=scores,
        needs=lambda scoring, settings: [(view, text) for view in (f"global.k{scoring.k}", LOCAL) for text in TEXTS],
    )
)
