"""View clip_surgery: CLIP Surgery (Li et al., 2023) (docs/methods.md)."""

from stages.views.dense import dense_view
from stages.views.registry import VIEWS

VIEWS.add(dense_view(__name__, "clip_surgery", "dense CLIP: value-value attention, parallel to the last six blocks"))
