"""Rule coherence: HybridGL's (CVPR 2025) 0.4 R + 0.6 C, C how much more of a heat map lies inside a mask than outside it.

No map is made for a phrase: the mean inside is the product of view ``gem`` with the text, the mean outside follows from
``gem.inside_minus_outside``. What the release has and no column does, the least value of the map and the mean of the map
times the position prior, is taken from the masks; see docs/methods.md.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from stages.scoring.fusion import Floats
from stages.scoring.geometry import PRIORS
from stages.scoring.others import columns_of
from stages.scoring.rules.based import base_cells, base_scores
from stages.scoring.rules.registry import RULES, Cell, Rule
from stages.scoring.rules.relation import Settings as RelationSettings
from stages.scoring.rules.relation import hybrid
from stages.scoring.rules.sentence import columns_with
from stages.scoring.table import PairTable, Scoring
from stages.text.words import KINDS

Doubles = NDArray[np.float64]
_MINUS = "inside_minus_outside"
_WITH_PRIOR = ("left", "right", "middle")
_OUTSIDE = {"bigger": 1.95, "smaller": 1.5}
_TINY = 1e-12


class Settings(RelationSettings):
    """The map, and how much C counts."""

    method: Literal["hybrid"] = "hybrid"
    heat: str = Field("gem", description="the heat map: a view that is stored with both poolings")
    text: Literal["sentence", "phrase"] = Field("phrase", description="the text of the heat map")
    share: float = Field(0.6, ge=0, le=1, description="weight of C, the rest is that of R")


def cells(scoring: Scoring, settings: Settings) -> list[Cell]:
    """Those of the base, and the heat map's two poolings."""
    heat = [(settings.heat, settings.text), (f"{settings.heat}.{_MINUS}", settings.text)]
    return list(dict.fromkeys([*base_cells(scoring, settings), *heat]))


def scores(pairs: PairTable, scoring: Scoring, settings: Settings) -> Floats:
    """share C + (1 - share) R of HybridGL's candidates, float64 (P,); all other masks below them, by the base."""
    columns_with(pairs, "coherence", settings.heat)
    columns_with(pairs, "coherence", f"{settings.heat}.{_MINUS}")
    r = hybrid(pairs, scoring, settings)
    c = coherence(pairs, settings, np.isfinite(base_scores(pairs, scoring, settings.base)))
    result = r.astype(np.float64)
    for start, stop in zip(pairs.offsets[:-1], pairs.offsets[1:], strict=True):
        top = start + np.flatnonzero(r[start:stop] > 0)
        if len(top):
            final = settings.share * c[top] + (1 - settings.share) * r[top]
            result[start:stop] += final.min() - 1
            result[top] = final
    return result


def coherence(pairs: PairTable, settings: Settings, usable: NDArray[np.bool_]) -> Doubles:
    """C_m = ((2 - b) p_m (in_m - lo) - b q_m (out_m - lo)) / (P (mean - lo)) of every pair, float64 (P,).

    in_m and out_m are the means of the map inside and outside the mask, mean that of the image, p_m, q_m and P those of the
    prior, lo the least of all in_m and out_m of the image. A mask without such means (of the whole image, which has
    no outside; empty) gets the least C.

    Args:
        usable: the pairs that take part (P,).
    """
    columns, counts = columns_of(pairs), np.diff(pairs.offsets)
    length = np.sqrt(np.maximum(columns.text_product(settings.text, settings.text).astype(np.float64), _TINY))
    inside = columns.dot(settings.heat, settings.text) / np.repeat(length, counts)
    outside = inside - columns.dot(f"{settings.heat}.{_MINUS}", settings.text) / np.repeat(length, counts)
    rows = columns["proposal"]
    area, pixels = pairs.proposal_area.astype(np.float64), columns["proposal_size"].astype(np.float64).prod(1)[rows]
    for view in (settings.heat, f"{settings.heat}.{_MINUS}"):
        usable = usable & (columns.view_product(view, view) > 0)
    relation, place = columns["expression_hybrid"].T
    b = np.repeat([_OUTSIDE.get(KINDS[kind], 1.8) if kind >= 0 else 1.8 for kind in relation.tolist()], counts)
    result = np.zeros(len(rows))
    for expression in np.flatnonzero(counts):
        own = slice(pairs.offsets[expression], pairs.offsets[expression + 1])
        whole = area[own] >= pixels[own]
        known = usable[own] & ~whole
        if not known.any():
            continue
        low = float(min(inside[own][known].min(), outside[own][known].min()))
        prior, everywhere = None, 1.0
        if place[expression] >= 0 and PRIORS[place[expression]] in _WITH_PRIOR:
            prior, everywhere = columns["proposal_prior"][rows[own], place[expression]].astype(np.float64), 0.5
        c = of_means(inside[own], outside[own], area[own] / pixels[own], b[own], low, prior, everywhere)
        result[own] = np.where(known, c, c[known].min())
    return result


def of_means(
    inside: Doubles, outside: Doubles, share: Doubles, b: Doubles, low: float, prior: Doubles | None, everywhere: float
) -> Doubles:
    """C of N masks of one image, from the means of its map (N,) and its least value ``low``.

    Args:
        share: area of each mask as a share of the image (N,). b: weight of what is outside (N,).
        prior: its mean inside each mask (N,), None for none. everywhere: its mean over the image.
    """
    p = np.ones(len(share)) if prior is None else prior
    q = (everywhere - share * p) / np.maximum(1 - share, _TINY)
    mean = share * inside + (1 - share) * outside
    numerator = (2 - b) * p * (inside - low) - b * q * (outside - low)
    c: Doubles = numerator / np.maximum(everywhere * (mean - low), _TINY)
    return c


RULES.add(
    Rule(
        module=__name__,
        name="coherence",
        label="Coherence",
        formula="0.4 R + 0.6 C, C = ((2 - b) mean inside - b mean outside) / mean of the heat map above its least value",
        scores=scores,
        settings=Settings,
        needs=cells,
    )
)
