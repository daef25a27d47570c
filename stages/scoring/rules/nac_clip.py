"""Rule nac_clip: the mean cosine of the mask's patch tokens with the sentence, NACLIP (Hajimiri et al., WACV 2025)."""

from stages.scoring.rules.registry import RULES
from stages.scoring.rules.sentence import sentence_rule

RULES.add(sentence_rule(__name__, "nac_clip", "NACLIP", cosine=False))
