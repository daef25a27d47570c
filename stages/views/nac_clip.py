"""View nac_clip: NACLIP (Hajimiri, Ben Ayed and Dolz, WACV 2025) (docs/methods.md)."""

from stages.views.dense import dense_view
from stages.views.registry import VIEWS

VIEWS.add(dense_view(__name__, "nac_clip", "dense CLIP: patches attend to like keys and to near patches"))
