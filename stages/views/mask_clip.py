"""View mask_clip: MaskCLIP for a vision transformer (Zhou, Loy and Dai, ECCV 2022) (docs/methods.md)."""

from stages.views.dense import dense_view
from stages.views.registry import VIEWS

VIEWS.add(
    dense_view(__name__, "mask_clip", "dense CLIP: the last block's values, each patch attending to itself alone")
)
