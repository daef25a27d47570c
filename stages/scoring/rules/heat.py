"""Rule heat: the mean of any kind of heat map inside the mask (stage heat, docs/methods.md)."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from stages.contract import Params
from stages.scoring.fusion import Floats
from stages.scoring.heat import HeatPooling
from stages.scoring.others import columns_of
from stages.scoring.rules.registry import RULES, Rule
from stages.scoring.table import MissingViewError, PairTable
from store.errors import nearest


class Pooled(Params):
    """What is taken of a map."""

    pooling: HeatPooling = Field("inside", description="mean of the map inside the mask, or that less the mean outside")


class Settings(Pooled):
    """The map, and what is taken of it."""

    map: str = Field("clip_es", description="the kind of heat map, one of heat.maps")


def heat_scores(pairs: PairTable, rule: str, kind: str, pooling: HeatPooling) -> Floats:
    """The mean of a map in each pair's mask, float32 (P,); -inf where the map is lost or the mask has no such mean.

    Args:
        pairs: unfiltered. rule: its name, for the message.

    Raises:
        MissingViewError: the table does not hold the kind.
    """
    columns = columns_of(pairs)
    if kind not in columns.maps:
        raise MissingViewError(
            f"rule {rule}: needs heat map {kind!r}, which {columns.path} does not hold; {nearest(kind, columns.maps)}; add "
            f"{kind} to heat.maps, or take {rule} out of rules.enabled"
        )
    mean = columns.heat(kind, pooling)
    return np.where(np.isnan(mean), np.float32(-np.inf), mean)


RULES.add(
    Rule(
        module=__name__,
        name="heat",
        label="Heat map",
        formula="mean of the map of the sentence inside m",
        scores=lambda pairs, scoring, settings: heat_scores(pairs, "heat", settings.map, settings.pooling),
        settings=Settings,
        maps=lambda settings: [settings.map],
    )
)
