"""View hybrid_l2g: the scene blurred outside the mask, to which the masked object is added in CLIP's last blocks (HybridGL)."""

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

    return hybrid_features(encoder, image, masks, ["l2g"], masked_blocks=masked_blocks, preprocess=preprocess)


VIEWS.add(
    View(
        module=__name__,
        backbones=("vit",),
        name="hybrid_l2g",
        meaning="the scene blurred outside the mask, with the masked object added in the last blocks",
        labels=settings_of("hybrid_l2g"),
        open=one_by_one(features),
    )
)
