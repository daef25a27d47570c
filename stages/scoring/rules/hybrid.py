"""Rule hybrid: the sum of both streams (HybridGL), with the text of global_local."""

from stages.scoring.rules.registry import RULES
from stages.scoring.rules.sentence import mixed_text_rule

RULES.add(mixed_text_rule(__name__, "hybrid", "HybridGL, both", ("hybrid_g2l", "hybrid_l2g")))
