"""What the rules of a single view share: its vector times the whole sentence."""

from __future__ import annotations

from typing import Any

import numpy as np

from stages.scoring.fusion import Floats
from stages.scoring.rules.registry import Cell
from stages.scoring.table import SENTENCE, Columns, MissingViewError, PairTable, Scoring
from store.errors import nearest


def sentence_cell(scoring: Scoring, settings: Any) -> list[Cell]:
    """The ``needs`` of a rule that multiplies the view of its settings by the whole sentence."""
    return [(settings.view, SENTENCE)]


def sentence_scores(pairs: PairTable, rule: str, view: str, *, cosine: bool = False) -> Floats:
    """v . t^ of every pair, float32 (P,), t^ the unit vector of the sentence; ``cosine``: v^ . t^.

    A mask whose vector is 0 has nothing that a text could be compared with (an empty one, or one that could not be
    pooled): -inf, so that it is not chosen.

    Args:
        pairs: unfiltered. rule: its name, for the message. view: the label of a view of the pair table.

    Raises:
        MissingViewError: the table does not hold the view.
    """
    columns = columns_with(pairs, rule, view)
    smallest = np.finfo(np.float32).tiny
    sentence = np.sqrt(np.maximum(columns.text_product(SENTENCE, SENTENCE), smallest))
    scores = columns.dot(view, SENTENCE) / np.repeat(sentence, np.diff(pairs.offsets))
    length = columns.view_product(view, view)
    if cosine:
        scores /= np.sqrt(np.maximum(length, smallest))
    return np.where(length > 0, scores, np.float32(-np.inf))


def columns_with(pairs: PairTable, rule: str, view: str) -> Columns:
    """The columns of an unfiltered table that holds ``view``.

    Raises:
        MissingViewError: it does not; with what to add to the params file.
    """
    columns = pairs.columns
    if columns is None:
        raise ValueError("expected an unfiltered table, got one that a filter has cut")
    if view not in columns.views:
        name, _, rest = view.partition(".")
        values = f", and {rest!r} to embed_masks.settings.{name}" if rest else ""
        raise MissingViewError(
            f"rule {rule}: needs view {view!r}, which {columns.path} does not hold; {nearest(view, columns.views)}; add "
            f"{name} to embed_masks.views{values}, or take {rule} out of rules.enabled"
        )
    return columns
