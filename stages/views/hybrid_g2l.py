"""View hybrid_g2l: the masked object, to which its blurred scene is added in CLIP's last blocks (HybridGL)."""

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

    return hybrid_features(encoder, image, masks, ["g2l"], masked_blocks=masked_blocks, preprocess=preprocess)


VIEWS.add(
    View(
        module=__name__,
        backbones=("vit",),
        name="hybrid_g2l",
        meaning="the masked object on a flat colour, with the blurred scene added in the last blocks",
        labels=settings_of("hybrid_g2l"),
        open=one_by_one(features),
    )
)
