"""View hybrid: the sum of the views hybrid_g2l and hybrid_l2g, to the bit (HybridGL)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stages.views.registry import VIEWS, Boxes, Masks, MaskVectors, View, one_by_one, settings_of

if TYPE_CHECKING:
    from stages.visual.mask_encoder import MaskEncoder
    from stages.visual.preprocess import Prepared


def features(
    encoder: MaskEncoder,
    image: Prepared,
    masks: Masks,
    boxes: Boxes,
    *,
    masked_blocks: int = 3,
    preprocess: Any = "release",
) -> MaskVectors:
    from stages.visual.hybrid import hybrid_features

    return hybrid_features(encoder, image, masks, ["g2l", "l2g"], masked_blocks=masked_blocks, preprocess=preprocess)


VIEWS.add(
    View(
        module=__name__,
        backbones=("vit",),
        name="hybrid",
        meaning="hybrid_g2l and hybrid_l2g, added",
        labels=settings_of("hybrid"),
        open=one_by_one(features),
    )
)
