"""Rules grad_cam and grad_cam_released: the mean of the Grad-CAM map inside the mask, a baseline of the paper (sec. 4.1).

The release's helper returns the negative of the usual map; whether its baseline turned that back is not known, and the two
choose different masks. So there is a rule for either sign.
"""

from __future__ import annotations

from pydantic import Field

from stages.contract import Params
from stages.scoring.fusion import Floats
from stages.scoring.rules.registry import RULES, Rule
from stages.scoring.rules.sentence import sentence_cell, sentence_scores
from stages.scoring.table import PairTable, Scoring


class Settings(Params):
    """What is ranked by."""

    view: str = Field("grad_cam", description="the view's label: another pooling, see embed_masks.settings")


def usual(pairs: PairTable, scoring: Scoring, settings: Settings) -> Floats:
    """High where the image speaks for the sentence."""
    return sentence_scores(pairs, "grad_cam", settings.view)


def released(pairs: PairTable, scoring: Scoring, settings: Settings) -> Floats:
    """The same map, negative; what must not be chosen stays so."""
    scores = sentence_scores(pairs, "grad_cam_released", settings.view)
    scores[scores > -float("inf")] *= -1
    return scores


RULES.add(
    Rule(
        module=__name__,
        name="grad_cam",
        label="Grad-CAM",
        formula="g_m.t_G / |t_G|",
        scores=usual,
        settings=Settings,
        needs=sentence_cell,
    )
)
RULES.add(
    Rule(
        module=__name__,
        name="grad_cam_released",
        label="Grad-CAM, sign as released",
        formula="-g_m.t_G / |t_G|",
        scores=released,
        settings=Settings,
        needs=sentence_cell,
    )
)
