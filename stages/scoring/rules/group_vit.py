"""Rule group_vit: the mean of GroupViT's map inside the mask (docs/methods.md)."""

from __future__ import annotations

from stages.scoring.rules.heat import Pooled, heat_scores
from stages.scoring.rules.registry import RULES, Rule

RULES.add(
    Rule(
        module=__name__,
        name="group_vit",
        label="GroupViT",
        formula="mean of GroupViT's map of the noun phrase inside m",
        scores=lambda pairs, scoring, settings: heat_scores(pairs, "group_vit", "group_vit", settings.pooling),
        settings=Pooled,
        maps=lambda settings: ["group_vit"],
    )
)
