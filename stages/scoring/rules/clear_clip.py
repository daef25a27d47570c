"""Rule clear_clip: the mean cosine of the mask's patch tokens with the sentence, ClearCLIP (Lan et al., ECCV 2024)."""

from stages.scoring.rules.registry import RULES
from stages.scoring.rules.sentence import sentence_rule

RULES.add(sentence_rule(__name__, "clear_clip", "ClearCLIP", cosine=False))
