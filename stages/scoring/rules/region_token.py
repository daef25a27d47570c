"""Rule region_token: the cosine of the mask's region token (Adapting CLIP), a baseline of the paper (sec. 4.1)."""

from __future__ import annotations

from pydantic import Field

from stages.contract import Params
from stages.scoring.rules.registry import RULES, Rule
from stages.scoring.rules.sentence import sentence_cell, sentence_scores


class Settings(Params):
    """What is ranked by."""

    view: str = Field("region_token", description="the view's label: region_token.no_reference for CLIP's own patches")


RULES.add(
    Rule(
        module=__name__,
        name="region_token",
        label="Region token",
        formula="cos(r_m, t_G)",
        scores=lambda pairs, scoring, settings: sentence_scores(pairs, "region_token", settings.view, cosine=True),
        settings=Settings,
        needs=sentence_cell,
    )
)
