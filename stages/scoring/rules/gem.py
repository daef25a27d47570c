"""Rule gem: the mean cosine of the mask's patch tokens with the sentence, GEM (Bousselham et al., CVPR 2024)."""

from stages.scoring.rules.registry import RULES
from stages.scoring.rules.sentence import sentence_rule

RULES.add(sentence_rule(__name__, "gem", "GEM", cosine=False))
