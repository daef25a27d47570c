"""Rule red_circle: the cosine of the image with an ellipse around the mask and the sentence, Shtedritski et al. (ICCV 2023)."""

from stages.scoring.rules.registry import RULES
from stages.scoring.rules.sentence import sentence_rule

RULES.add(sentence_rule(__name__, "red_circle", "Red circle", cosine=True))
