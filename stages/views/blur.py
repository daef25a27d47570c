"""View blur: the whole image blurred, with the mask's own pixels left sharp (FGVP)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stages.views.registry import VIEWS, Boxes, Masks, MaskVectors, View, one_by_one, settings_of

if TYPE_CHECKING:
    from stages.visual.mask_encoder import MaskEncoder
    from stages.visual.preprocess import Prepared


def features(
    encoder: MaskEncoder, image: Prepared, masks: Masks, boxes: Boxes, *, std: float = 100, preprocess: Any = "release"
) -> MaskVectors:
    from stages.visual.prompts import blur_features

    return blur_features(encoder, image, masks, std=std, preprocess=preprocess)


VIEWS.add(
    View(
        module=__name__,
        name="blur",
        meaning="the whole image blurred, the mask left sharp",
        labels=settings_of("blur"),
        open=one_by_one(features),
    )
)
