"""Rule blur: the cosine of the image blurred outside the mask with the sentence, FGVP (Yang et al., 2023)."""

from stages.scoring.rules.registry import RULES
from stages.scoring.rules.sentence import sentence_rule

RULES.add(sentence_rule(__name__, "blur", "Blur prompt", cosine=True))
