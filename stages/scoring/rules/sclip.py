"""Rule sclip: the mean cosine of the mask's patch tokens with the sentence, SCLIP (Wang et al., ECCV 2024)."""

from stages.scoring.rules.registry import RULES
from stages.scoring.rules.sentence import sentence_rule

RULES.add(sentence_rule(__name__, "sclip", "SCLIP", cosine=False))
