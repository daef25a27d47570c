"""What the rules of a single view share: its vector times the whole sentence."""

from __future__ import annotations

from typing import Any

import numpy as np
from pydantic import Field, create_model

from stages.contract import Params
from stages.scoring.fusion import Floats
from stages.scoring.rules.registry import Cell, Rule
from stages.scoring.table import PHRASE, SENTENCE, Columns, MissingViewError, PairTable, Scoring
from store.errors import nearest


def sentence_cell(scoring: Scoring, settings: Any) -> list[Cell]:
    """The ``needs`` of a rule that multiplies the view of its settings by the whole sentence."""
    return [(settings.view, SENTENCE)]


def sentence_rule(module: str, name: str, label: str, *, cosine: bool) -> Rule:
    """The rule ``name`` of the view of the same name: its product with the unit vector of the sentence, or their cosine.

    Its setting ``view`` takes another label of the view, as `gem.inside_minus_outside`.
    """
    described = Field(name, description="the view's label: other arguments of the view have one of their own")
    return Rule(
        module=module,
        name=name,
        label=label,
        formula=f"cos({name}_m, t_G)" if cosine else f"{name}_m.t_G / |t_G|",
        scores=lambda pairs, scoring, settings: sentence_scores(pairs, name, settings.view, cosine=cosine),
        settings=create_model(f"{name}_settings", __base__=Params, view=(str, described)),
        needs=sentence_cell,
    )


def mixed_text_rule(module: str, name: str, label: str, views: tuple[str, ...]) -> Rule:
    """The rule ``name``: the cosine of the sum of ``views`` (one or two) with the mix of sentence and noun phrase by beta."""

    def scores(pairs: PairTable, scoring: Scoring, settings: Params) -> Floats:
        for view in views:
            columns = columns_with(pairs, name, view)
        dots = columns.dots(views[0], views[-1], pairs.dots.score_rule)
        lost = [columns.view_product(view, view) <= 0 for view in views]
        return np.where(np.any(lost, axis=0), np.float32(-np.inf), dots.scores(0.5, scoring.beta))

    return Rule(
        module=module,
        name=name,
        label=label,
        formula=f"100 cos({' + '.join(views)}, beta t_G + (1 - beta) t_L)",
        scores=scores,
        needs=lambda scoring, settings: [(view, text) for view in views for text in (SENTENCE, PHRASE)],
    )


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
