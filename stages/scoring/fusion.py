"""Fusion and scoring: from features (the plain form) and from the pair table (the algebra that needs no vectors).

Global-local CLIP mixes raw vectors, f = alpha f_G + (1 - alpha) f_L and t = beta t_G + (1 - beta) t_L, and ranks
proposals by 100 cos(f, t) (Yu, Seo and Son, CVPR 2023, sec. 3.3 and 3.4). With the dots A = f_G.t_G, B = f_G.t_L,
C = f_L.t_G, D = f_L.t_L, all is bilinear: f.t, |f|^2 and |t|^2 for any (alpha, beta) follow from the table.

RN50 (score rule ``unnormalised``) differs in the released code: text vectors are normalised before they are mixed, and the
score is 100 f.t, not a cosine, so |f_G| takes part in the ranking.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stages.scoring.score_rule import ScoreRule
from store.ragged import Offsets

Floats = NDArray[np.floating]
LOGIT_SCALE = np.float32(100)


def fused_scores(
    f_global: Floats,
    f_local: Floats,
    t_global: Floats,
    t_local: Floats,
    alpha: float,
    beta: float,
    score_rule: ScoreRule = "cosine",
) -> NDArray[np.float64]:
    """Scores of N proposals for one expression, straight from the vectors.

    Args:
        f_global, f_local: raw features (N, D).
        t_global, t_local: raw text features (D,) of the sentence and of the target noun phrase.
        alpha, beta: weights of the global visual and of the sentence feature, 0 to 1.
        score_rule: ``cosine`` (ViT) or ``unnormalised`` (RN50 as released).

    Returns:
        100 x cosine (or 100 x dot), float64 (N,); 0 where a vector has no length; (0,) for N = 0.
    """
    g, l, s, p = (np.asarray(x, np.float64) for x in (f_global, f_local, t_global, t_local))
    if score_rule == "unnormalised":
        s, p = s / _length(s), p / _length(p)
    visual = alpha * g + (1 - alpha) * l
    text = beta * s + (1 - beta) * p
    dots: NDArray[np.float64] = float(LOGIT_SCALE) * (visual @ text)
    if score_rule == "unnormalised":
        return dots
    dots /= np.maximum(np.linalg.norm(visual, axis=-1) * np.linalg.norm(text), np.finfo(np.float64).tiny)
    return dots


def _length(vector: Floats) -> float:
    return float(np.linalg.norm(vector)) or 1.0


@dataclass(frozen=True)
class Dots:
    """The scoring columns of the pair table for one k: seven floats per pair, three per expression.

    Attributes:
        offsets: pairs of each expression (E+1,).
        a, b, c, d: f_G.t_G, f_G.t_L, f_L.t_G, f_L.t_L (P,).
        global_norm, cross_norm, local_norm: |f_G|^2, f_G.f_L, |f_L|^2 (P,).
        text_norms: |t_G|^2, |t_L|^2, t_G.t_L (E, 3).
    """

    offsets: Offsets
    a: Floats
    b: Floats
    c: Floats
    d: Floats
    global_norm: Floats
    cross_norm: Floats
    local_norm: Floats
    text_norms: Floats
    score_rule: ScoreRule = "cosine"

    @property
    def columns(self) -> tuple[Floats, ...]:
        """The columns of pairs, in the order that ``projections`` takes them."""
        return self.a, self.b, self.c, self.d, self.global_norm, self.cross_norm, self.local_norm

    def scores(self, alpha: Floats | float, beta: float) -> Floats:
        """Scores of all pairs, float32 (P,), equal to ``fused_scores`` of their vectors up to rounding.

        Args:
            alpha: one value, or one for each expression (E,).
            beta: one value.
        """
        counts = np.diff(self.offsets)
        given = np.asarray(alpha, np.float32)
        toward = projections(self.columns, np.repeat(given, counts) if given.ndim else given, self.score_rule)
        sentence, phrase = text_shares(self.text_norms, np.asarray(beta, np.float32), self.score_rule)
        return mixed(np.repeat(sentence, counts), np.repeat(phrase, counts), *toward)


def projections(columns: tuple[Floats, ...], alpha: Floats, score_rule: ScoreRule) -> tuple[Floats, Floats]:
    """The projections of both text features on the visual feature mixed with ``alpha``: f.t_G and f.t_L, over |f| for cosine.

    Args:
        columns: ``Dots.columns``, seven float32 arrays of one shape. alpha: float32, broadcast against them.

    Returns:
        Two float32 arrays. The operations and their order are fixed and elementwise: the same numbers give the same bits in
        any shape, on which ``stages.scoring.surface`` relies; so it does for the next two functions.
    """
    a, b, c, d, global_norm, cross_norm, local_norm = columns
    rest = np.float32(1) - alpha
    sentence, phrase = alpha * a, alpha * b
    sentence += rest * c
    phrase += rest * d
    if score_rule == "cosine":
        length = (alpha * alpha) * global_norm
        length += (2 * alpha * rest) * cross_norm
        length += (rest * rest) * local_norm
        inverse = _inverse_length(length)
        sentence *= inverse
        phrase *= inverse
    return sentence, phrase


def text_shares(text_norms: Floats, beta: Floats, score_rule: ScoreRule) -> tuple[Floats, Floats]:
    """The weights of the two projections: 100 beta / |t| and 100 (1 - beta) / |t|, with |t_G|, |t_L| if unnormalised.

    Args:
        text_norms: |t_G|^2, |t_L|^2, t_G.t_L (..., 3). beta: float32, broadcast against (...).
    """
    sentence, phrase, both = (text_norms[..., i] for i in range(3))
    rest = np.float32(1) - beta
    if score_rule == "unnormalised":
        inverses = _inverse_length(sentence), _inverse_length(phrase)
    else:
        inverses = (_inverse_length((beta * beta) * sentence + (2 * beta * rest) * both + (rest * rest) * phrase),) * 2
    return (LOGIT_SCALE * beta) * inverses[0], (LOGIT_SCALE * rest) * inverses[1]


def mixed(sentence_share: Floats, phrase_share: Floats, sentence: Floats, phrase: Floats) -> Floats:
    """The scores: projections weighted by their shares."""
    scores = sentence_share * sentence
    scores += phrase_share * phrase
    return scores


def _inverse_length(squares: Floats) -> Floats:
    return np.float32(1) / np.sqrt(np.maximum(squares, np.finfo(np.float32).tiny))


def first_best(values: Floats, offsets: Offsets) -> NDArray[np.int64]:
    """Position of each segment's greatest value within the segment, the first one on ties; -1 for an empty one.

    Args:
        values: (P,); offsets: (E+1,). Returns int64 (E,).

    >>> first_best(np.array([1.0, 3.0, 3.0, 2.0]), np.array([0, 3, 3, 4]))
    array([ 1, -1,  0])
    """
    best = np.full(len(offsets) - 1, -1, np.int64)
    filled = np.flatnonzero(np.diff(offsets))
    if not len(filled):
        return best
    starts = offsets[:-1][filled]
    greatest = np.repeat(np.maximum.reduceat(values, starts), np.diff(offsets)[filled])
    at_top = np.flatnonzero(values == greatest)
    owner = np.searchsorted(starts, at_top, "right") - 1
    _, first = np.unique(owner, return_index=True)
    best[filled] = at_top[first] - starts
    return best
