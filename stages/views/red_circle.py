"""View red_circle: the whole image with a red ellipse drawn in the mask's box (FGVP)."""

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
    thickness: int = 2,
    preprocess: Any = "release",
) -> MaskVectors:
    from stages.visual.prompts import red_circle_features

    return red_circle_features(encoder, image, masks, boxes, thickness=thickness, preprocess=preprocess)


VIEWS.add(
    View(
        module=__name__,
        name="red_circle",
        meaning="the whole image with a red ellipse in the mask's box",
        labels=settings_of("red_circle"),
        open=one_by_one(features),
        reads_boxes=True,
    )
)
