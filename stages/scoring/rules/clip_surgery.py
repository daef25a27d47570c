"""Rule clip_surgery: the mean cosine of the mask's patch tokens with the sentence, CLIP Surgery (Li et al., 2023)."""

from stages.scoring.rules.registry import RULES
from stages.scoring.rules.sentence import sentence_rule

RULES.add(sentence_rule(__name__, "clip_surgery", "CLIP Surgery", cosine=False))
