"""Rule global: the global feature alone, global_local at alpha 1."""

from __future__ import annotations

from stages.scoring.products import TEXTS
from stages.scoring.rules.registry import RULES, Rule

RULES.add(
    Rule(
        module=__name__,
        name="global",
        label="Global only",
        formula="100 cos(f_G, beta t_G + (1 - beta) t_L)",
        scores=lambda pairs, scoring, settings: pairs.dots.scores(1.0, scoring.beta),
        needs=lambda scoring, settings: [(f"global.k{scoring.k}", text) for text in TEXTS],
    )
)
