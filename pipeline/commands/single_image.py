"""One image, one phrase, no store: propose, embed, score, choose."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from stages.scoring.fusion import first_best, fused_scores
from stages.scoring.table import Scoring

if TYPE_CHECKING:
    from spacy.language import Language

    from stages.proposals.items import Proposals
    from stages.visual.encoder import MaskedClip


class ImageProposer(Protocol):
    """Proposes masks for any image, as `stages.proposals.freesolo.FreeSolo` does."""

    def propose(self, image: Image.Image) -> Proposals:
        """Proposals of one PIL image."""


@dataclass(frozen=True)
class Segmentation:
    """The proposals of the image, their scores float64 (N,) and the chosen one, -1 where there is none."""

    proposals: Proposals
    scores: NDArray[np.float64]
    chosen: int
    sentence: str
    noun_phrase: str


def segment(
    image: Image.Image,
    text: str,
    net: ImageProposer,
    clip: MaskedClip,
    nlp: Language,
    *,
    scoring: Scoring,
    template: str = "{}",
) -> Segmentation:
    """Choose the proposal of ``image`` (PIL RGB) that fits ``text`` best, exactly as the stages do (paper sec. 3)."""
    from stages.text.noun_phrase import target_noun_phrase
    from stages.text.template import mean_of_prompts, prompts_of

    proposals = net.propose(image)
    sentence, phrase = target_noun_phrase(nlp, text)
    prepared = clip.prepare(image)
    f_global = clip.global_features(prepared, proposals.masks, scoring.k)
    f_local = clip.local_features(prepared, proposals.masks, proposals.boxes)
    t_global, t_local = (
        mean_of_prompts(clip.text_features(list(prompts_of(template, read)))) for read in (sentence, phrase)
    )
    scores = fused_scores(f_global, f_local, t_global, t_local, scoring.alpha, scoring.beta, clip.score_rule)
    kept = np.flatnonzero(scoring.keeps(proposals.scores, proposals.masks.sum((1, 2)), np.arange(len(scores))))
    best = first_best(scores[kept], np.array([0, len(kept)]))[0]
    chosen = kept[best] if best >= 0 else -1
    return Segmentation(proposals, scores, int(chosen), sentence, phrase)
