"""Rule text_region: the cosine of the mask's region vector with the sentence, TextRegion (Xiao et al., 2025)."""

from stages.scoring.rules.registry import RULES
from stages.scoring.rules.sentence import sentence_rule

RULES.add(sentence_rule(__name__, "text_region", "TextRegion", cosine=True))
