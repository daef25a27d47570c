"""Rule clip_seg: the mean of CLIPSeg's map inside the mask (docs/methods.md)."""

from __future__ import annotations

from stages.scoring.rules.heat import Pooled, heat_scores
from stages.scoring.rules.registry import RULES, Rule

RULES.add(
    Rule(
        module=__name__,
        name="clip_seg",
        label="CLIPSeg (trained on PhraseCut)",
        formula="mean of CLIPSeg's map of the sentence inside m; the model was trained on PhraseCut",
        scores=lambda pairs, scoring, settings: heat_scores(pairs, "clip_seg", "clip_seg", settings.pooling),
        settings=Pooled,
        maps=lambda settings: ["clip_seg"],
    )
)
