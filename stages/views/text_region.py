"""View text_region: TextRegion's region token (Xiao et al., 2025; docs/methods.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from stages.contract import Listed, Params
from stages.views.registry import VIEWS, Boxes, Masks, MaskVectors
from stages.views.settings import view_of

if TYPE_CHECKING:
    from stages.visual.mask_encoder import MaskEncoder
    from stages.visual.preprocess import Prepared


class TextRegionSettings(Params):
    """How the image enters."""

    side: Listed[int | None] = Field(
        [None], min_length=1, description="side of the squashed image, pixels; none: the encoder's own input"
    )


def features(encoder: MaskEncoder, image: Prepared, masks: Masks, boxes: Boxes, side: int | None = None) -> MaskVectors:
    """The token of each mask, unit; that of an empty mask is 0."""
    from stages.clip.backbone import backbone_of
    from stages.visual.dense import pooled_regions, text_regions
    from stages.visual.pooling import pooling_weights

    regions = pooled_regions if backbone_of(encoder.model).name == "timm" else text_regions
    vectors = regions(encoder, image, lambda grid: pooling_weights(masks, grid)[0], side)
    empty = np.asarray(~masks.any((1, 2)))
    vectors[empty] = 0
    return MaskVectors(vectors, empty, "empty mask, no patch to average")


VIEWS.add(
    view_of(
        __name__,
        "text_region",
        "the last block's (of timm: the pool's) values averaged over the mask, then on as the class token would go",
        TextRegionSettings,
        features,
        backbones=("vit", "timm"),
        cost="one forward pass per image; for a mask the mean of a map, through the last projection",
    )
)
