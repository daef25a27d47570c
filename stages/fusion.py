"""Fusion and scoring: from features (the plain form) and from the pair table (the algebra that needs no vectors).

Global-local CLIP mixes raw vectors, f = alpha f_G + (1 - alpha) f_L and t = beta t_G + (1 - beta) t_L, and ranks
proposals by 100 cos(f, t) (Yu, Seo and Son, CVPR 2023, sec. 3.3 and 3.4). With the dots A = f_G.t_G, B = f_G.t_L,
C = f_L.t_G, D = f_L.t_L, all is bilinear: f.t, |f|^2 and |t|^2 for any (alpha, beta) follow from the table.

RN50 (score rule ``unnormalised``) differs in the released code: text vectors are normalised before they are mixed, and the
score is 100 f.t, not a cosine, so |f_G| takes part in the ranking.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from store.ragged import Offsets

ScoreRule = Literal["cosine", "unnormalised"]
Floats = NDArray[np.floating]
LOGIT_SCALE = 100.0


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
    dots = LOGIT_SCALE * (visual @ text)
    if score_rule == "unnormalised":
        return dots
    return dots / np.maximum(np.linalg.norm(visual, axis=-1) * np.linalg.norm(text), np.finfo(np.float64).tiny)


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

    def scores(self, alpha: Floats | float, beta: float) -> NDArray[np.float32]:
        """Scores of all pairs, float32 (P,), equal to ``fused_scores`` of their vectors.

        Args:
            alpha: one value, or one for each expression (E,).
            beta: one value.
        """
        counts = np.diff(self.offsets)
        per_pair = np.asarray(alpha, np.float32)
        v = np.repeat(per_pair, counts) if per_pair.ndim else per_pair
        w, r, q = np.float32(1) - v, np.float32(beta), np.float32(1 - beta)
        sentence, phrase, both = self.text_norms.T
        if self.score_rule == "unnormalised":
            sentence_scale = np.repeat(r / _lengths(sentence), counts)
            phrase_scale = np.repeat(q / _lengths(phrase), counts)
            dots = v * (sentence_scale * self.a + phrase_scale * self.b)
            dots += w * (sentence_scale * self.c + phrase_scale * self.d)
            return (np.float32(LOGIT_SCALE) * dots).astype(np.float32, copy=False)
        dots = v * (r * self.a + q * self.b) + w * (r * self.c + q * self.d)
        visual = v * v * self.global_norm + (2 * v * w) * self.cross_norm + w * w * self.local_norm
        text = r * r * sentence + (2 * r * q) * both + q * q * phrase
        scores = np.float32(LOGIT_SCALE) * dots / _lengths(visual) / np.repeat(_lengths(text), counts)
        return scores.astype(np.float32, copy=False)


def _lengths(squares: Floats) -> Floats:
    return np.sqrt(np.maximum(squares, np.finfo(np.float32).tiny))


def first_best(values: Floats, offsets: Offsets) -> NDArray[np.int64]:
    """Position of each segment's greatest value within the segment, the first one on ties; -1 for an empty one.

    Args:
        values: (P,); offsets: (E+1,). Returns int64 (E,).
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
