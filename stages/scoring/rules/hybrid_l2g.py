"""Rule hybrid_l2g: the scene that takes in the local stream (HybridGL), with the text of global_local."""

from stages.scoring.rules.registry import RULES
from stages.scoring.rules.sentence import mixed_text_rule

RULES.add(mixed_text_rule(__name__, "hybrid_l2g", "HybridGL, local to global", ("hybrid_l2g",)))
