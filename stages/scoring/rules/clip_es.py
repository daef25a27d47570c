"""Rule clip_es: the mean of CLIP-ES's map inside the mask (docs/methods.md)."""

from __future__ import annotations

from stages.scoring.rules.heat import Pooled, heat_scores
from stages.scoring.rules.registry import RULES, Rule

RULES.add(
    Rule(
        module=__name__,
        name="clip_es",
        label="CLIP-ES",
        formula="mean of CLIP-ES's map of the noun phrase inside m",
        scores=lambda pairs, scoring, settings: heat_scores(pairs, "clip_es", "clip_es", settings.pooling),
        settings=Pooled,
        maps=lambda settings: ["clip_es"],
    )
)
