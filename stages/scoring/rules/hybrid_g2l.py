"""Rule hybrid_g2l: the local stream that takes in the scene (HybridGL), with the text of global_local."""

from stages.scoring.rules.registry import RULES
from stages.scoring.rules.sentence import mixed_text_rule

RULES.add(mixed_text_rule(__name__, "hybrid_g2l", "HybridGL, global to local", ("hybrid_g2l",)))
