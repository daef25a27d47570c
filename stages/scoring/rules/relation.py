"""Rule relation: relations between masks, from boxes and scores: ReCLIP's (Subramanian et al., ACL 2022, sec. 3.2) or
HybridGL's (CVPR 2025)."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from stages.scoring.boxes import BETWEEN, WITHIN, box_between, box_relation
from stages.scoring.fusion import Floats
from stages.scoring.others import MIXED, Others, columns_of, other_sum_scores, others, visual
from stages.scoring.rules.based import Based, base_cells, base_scores
from stages.scoring.rules.registry import RULES, Cell, Rule
from stages.scoring.segments import log_softmax, softmax
from stages.scoring.table import LOCAL, PHRASE, PairTable, Scoring

Doubles = NDArray[np.float64]
_LEAST = 1e-30


class Settings(Based):
    """Whose relations."""

    method: Literal["reclip", "hybrid"] = Field(
        "reclip", description="reclip: every relation and superlative of the sentence; hybrid: HybridGL's one relation"
    )
    candidates: int = Field(3, ge=1, description="hybrid: among how many of the best masks is chosen")
    anchors: int = Field(6, ge=1, description="hybrid: how many masks may be the other object")
    view: str = Field(
        MIXED, description="the feature that is compared with phrases: mixed (alpha, as the base), or a view"
    )


def cells(scoring: Scoring, settings: Settings) -> list[Cell]:
    """Those of the base, and those of the target's own phrase."""
    if settings.method == "hybrid":
        return base_cells(scoring, settings)
    views = [f"global.k{scoring.k}", LOCAL] if settings.view == MIXED else [settings.view]
    return list(dict.fromkeys([*base_cells(scoring, settings), *((view, PHRASE) for view in views)]))


def scores(pairs: PairTable, scoring: Scoring, settings: Settings) -> Floats:
    """Scores of all pairs (P,)."""
    return (reclip if settings.method == "reclip" else hybrid)(pairs, scoring, settings)


def reclip(pairs: PairTable, scoring: Scoring, settings: Settings) -> Floats:
    """log p0 + log p(target), float64 (P,), p0 the softmax of the base; where the sentence has no relation, log p0."""
    columns, offsets = columns_of(pairs), pairs.offsets
    base = base_scores(pairs, scoring, settings.base)
    result = log_softmax(base, offsets)
    starts = columns["relation_offsets"]
    related = np.flatnonzero(np.diff(starts))
    if not len(related):
        return result
    phrases = others(pairs, scoring, settings.view)
    lost = ~np.isfinite(base)
    of_phrase = softmax(np.where(lost[phrases.pair], -np.inf, phrases.scores), phrases.offsets)
    square = np.repeat(columns.text_product(PHRASE, PHRASE), np.diff(offsets)).astype(np.float64)
    text = visual(pairs, scoring, settings.view).times(lambda view: columns.dot(view, PHRASE))
    target = softmax(np.where(lost, -np.inf, 100 * text / np.sqrt(np.maximum(square, _LEAST))), offsets)
    for expression in related:
        own = slice(offsets[expression], offsets[expression + 1])
        boxes = columns["proposal_box"][columns["proposal"][own]].astype(np.float64)
        relations = columns["relation"][starts[expression] : starts[expression + 1]].tolist()
        probabilities = {-1: target[own], **_of_phrases(phrases, of_phrase, int(expression))}
        found = entity(-1, probabilities, relations, boxes, frozenset())
        result[own] += np.log(np.maximum(found, _LEAST))
    return result


def _of_phrases(phrases: Others, of_phrase: Doubles, expression: int) -> dict[int, Doubles]:
    first, stop = phrases.phrases[expression : expression + 2]
    bounds = phrases.offsets
    return {x - first: of_phrase[bounds[x] : bounds[x + 1]] for x in range(first, stop)}


def entity(
    own: int,
    probabilities: dict[int, Doubles],
    relations: list[list[int]],
    boxes: Doubles,
    above: frozenset[int],
) -> Doubles:
    """p(e) of an entity over the N masks: its own phrase's, times what each of its relations says, each time to sum 1.

    Args:
        probabilities: of each entity by its phrase alone (N,). relations: (subject, kind, object, second object).
        boxes: XYXY (N, 4). above: the entities that ask for this one: a sentence that goes in a circle is cut there.
    """
    p, apart = probabilities[own], 1 - np.eye(len(boxes))
    inner = above | {own}
    for subject, kind, anchor, second in relations:
        if subject != own or anchor in inner or second in inner - {-1}:
            continue
        if anchor < 0:
            if kind not in (BETWEEN, WITHIN):
                p = normed(p, box_relation(kind, boxes, boxes) @ p)
            continue
        q = entity(anchor, probabilities, relations, boxes, inner)
        if kind == BETWEEN:
            r = q if second < 0 else entity(second, probabilities, relations, boxes, inner)
            between = box_between(boxes, boxes, boxes) * apart[:, :, None] * apart[:, None, :] * apart[None]
            p = normed(p, between @ r @ q)
        else:
            p = normed(p, (box_relation(kind, boxes, boxes) * apart) @ q)
    return p


def normed(p: Doubles, factor: Doubles) -> Doubles:
    """p x factor, to sum 1; p itself where nothing is left of it: a relation that no mask is in says nothing."""
    product = p * factor
    total = product.sum()
    return product / total if total > 0 else p


def hybrid(pairs: PairTable, scoring: Scoring, settings: Settings) -> Floats:
    """R of the best masks, softmax(base) - 1 of the others, so that these stay below, float64 (P,)."""
    columns, offsets = columns_of(pairs), pairs.offsets
    base = base_scores(pairs, scoring, settings.base)
    own_share = softmax(base, offsets)
    other, has_other = other_sum_scores(pairs, scoring, settings.view)
    other_share = softmax(np.where(np.isfinite(base), other, -np.inf), offsets)
    result = np.where(np.isfinite(base), own_share - 1, -np.inf)
    for expression in np.flatnonzero(np.diff(offsets)):
        own = slice(offsets[expression], offsets[expression + 1])
        usable = int(np.isfinite(base[own]).sum())
        if not usable:
            continue
        second = other_share[own] if has_other[offsets[expression]] else None
        top, _, r = hybrid_relation(
            own_share[own],
            second,
            columns["proposal_box"][columns["proposal"][own]].astype(np.float64),
            int(columns["expression_hybrid"][expression, 0]),
            min(settings.candidates, usable),
            min(settings.anchors, usable),
        )
        result[offsets[expression] + top] = r
    return result


def hybrid_relation(
    s: Doubles, other: Doubles | None, boxes: Doubles, kind: int, candidates: int, anchors: int
) -> tuple[NDArray[np.int64], Doubles, Doubles]:
    """HybridGL's relations of one expression with N masks.

    Args:
        s: softmax of the scores (N,). other: that of the mean text of the other phrases, None without any.
        boxes: XYXY (N, 4). kind: place in ``stages.text.words.KINDS``, -1 for none. candidates, anchors: how many of each.

    Returns:
        The candidates A, best first; the sum over anchors of rho; and R, its softmax over A.
    """
    top = np.argsort(-s, kind="stable")[:candidates]
    q = s if other is None else other
    chosen = top if other is None else np.argsort(-q, kind="stable")[:anchors]
    if kind < 0 or kind == BETWEEN:
        rho = s[top] * len(chosen)
    else:
        rho = s[top] * (box_relation(kind, boxes[top], boxes[chosen]) @ q[chosen])
    shifted = np.exp(rho - rho.max())
    return top, rho, shifted / shifted.sum()


RULES.add(
    Rule(
        module=__name__,
        name="relation",
        label="Relations",
        formula="p0 p(target), p(e)_i <- p(e)_i sum_j p(e2)_j rel(i, j) for each relation of e",
        scores=scores,
        settings=Settings,
        needs=cells,
    )
)
