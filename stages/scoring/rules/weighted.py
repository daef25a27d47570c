"""Rule weighted: any weighted sum of cells, a cell being one view times one text."""

from __future__ import annotations

import numpy as np
from pydantic import Field, field_validator

from stages.contract import Params
from stages.scoring.fusion import Floats
from stages.scoring.products import TEXTS
from stages.scoring.rules.registry import RULES, Cell, Rule
from stages.scoring.rules.sentence import columns_with
from stages.scoring.table import PairTable, Scoring

_DEFAULT = {"global.k3*sentence": 0.25, "global.k3*phrase": 0.25, "local*sentence": 0.25, "local*phrase": 0.25}


class Settings(Params):
    """The cells and their weights."""

    weights: dict[str, float] = Field(
        _DEFAULT, min_length=1, description="<view>*<text> -> weight of the cell, any sign; texts: sentence, phrase"
    )
    cosine: bool = Field(True, description="a cell is 100 cos(v, t); false: 100 v.t / |t|, so that |v| takes part")

    @field_validator("weights")
    @classmethod
    def _are_cells(cls, weights: dict[str, float]) -> dict[str, float]:
        for cell, weight in weights.items():
            view, _, text = cell.rpartition("*")
            if not view or text not in TEXTS:
                raise ValueError(f"{cell}: expected <view>*<text>, text one of {', '.join(TEXTS)}")
            if not np.isfinite(weight):
                raise ValueError(f"{cell}: expected a finite weight, got {weight}")
        return weights


def cells(scoring: Scoring, settings: Settings) -> list[Cell]:
    """The cells that are weighted."""
    return [(view, text) for view, _, text in (cell.rpartition("*") for cell in settings.weights)]


def scores(pairs: PairTable, scoring: Scoring, settings: Settings) -> Floats:
    """sum_c w_c 100 cos(v_c, t_c), float32 (P,); -inf for a mask without a vector in one of the views."""
    from stages.scoring.products_kernel import add_cell

    weighted = [
        (*cell, weight) for cell, weight in zip(cells(scoring, settings), settings.weights.values(), strict=True)
    ]
    tiny, total = np.finfo(np.float32).tiny, np.zeros(len(pairs.union), np.float32)
    unusable, length = None, {}
    for view in dict.fromkeys(view for view, _, _ in weighted):
        columns = columns_with(pairs, "weighted", view)
        squares = columns.view_squares(view)
        length[view] = 1 / np.sqrt(np.maximum(squares, tiny)) if settings.cosine else np.ones_like(squares)
        unusable = squares <= 0 if unusable is None else unusable | (squares <= 0)
    for view, text, weight in weighted:
        share = np.float32(100 * weight) / np.sqrt(np.maximum(columns.text_product(text, text), tiny))
        add_cell(total, columns.dot(view, text), share, length[view], pairs.offsets, columns["proposal"])
    if unusable is not None and unusable.any():
        total[unusable[columns["proposal"]]] = -np.inf
    return total


RULES.add(
    Rule(
        module=__name__,
        name="weighted",
        label="Weighted cells",
        formula="sum over cells c of w_c 100 cos(v_c, t_c)",
        scores=scores,
        settings=Settings,
        needs=cells,
    )
)
