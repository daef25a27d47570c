"""Rule cropping: the local feature alone, global_local at alpha 0: the paper's first baseline (sec. 4.1)."""

from __future__ import annotations

from stages.scoring.products import TEXTS
from stages.scoring.rules.registry import RULES, Rule
from stages.scoring.table import LOCAL

RULES.add(
    Rule(
        module=__name__,
        name="cropping",
        label="Cropping",
        formula="100 cos(f_L, beta t_G + (1 - beta) t_L)",
        scores=lambda pairs, scoring, settings: pairs.dots.scores(0.0, scoring.beta),
        needs=lambda scoring, settings: [(LOCAL, text) for text in TEXTS],
    )
)
