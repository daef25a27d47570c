"""Rule score_map: the mean of the score map inside the mask (MaskCLIP, DenseCLIP), a baseline of the paper (sec. 4.1)."""

from __future__ import annotations

from pydantic import Field

from stages.contract import Params
from stages.scoring.rules.registry import RULES, Rule
from stages.scoring.rules.sentence import sentence_cell, sentence_scores


class Settings(Params):
    """What is ranked by."""

    view: str = Field("score_map", description="the view's label: another pooling or bias, see embed_masks.settings")


RULES.add(
    Rule(
        module=__name__,
        name="score_map",
        label="Score map",
        formula="h_m.t_G / |t_G|",
        scores=lambda pairs, scoring, settings: sentence_scores(pairs, "score_map", settings.view),
        settings=Settings,
        needs=sentence_cell,
    )
)
