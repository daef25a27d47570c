"""Rule mask_clip: the mean cosine of the mask's patch tokens with the sentence, MaskCLIP (Zhou et al., ECCV 2022)."""

from stages.scoring.rules.registry import RULES
from stages.scoring.rules.sentence import sentence_rule

RULES.add(sentence_rule(__name__, "mask_clip", "MaskCLIP", cosine=False))
