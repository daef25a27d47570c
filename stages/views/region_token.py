"""View region_token: a class token of its own for each mask, which sees the mask's patches only (docs/methods.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from stages.contract import Listed, Params
from stages.views.registry import VIEWS, Boxes, Masks, MaskVectors
from stages.views.settings import view_of

if TYPE_CHECKING:
    from stages.visual.mask_encoder import MaskEncoder
    from stages.visual.preprocess import Prepared


class Settings(Params):
    """Which patches a mask is made of."""

    reference: Listed[bool] = Field(
        [True], min_length=1, description="patches and cells as released; no: CLIP's own patches, cells by covered area"
    )


def features(encoder: MaskEncoder, image: Prepared, masks: Masks, boxes: Boxes, *, reference: bool) -> MaskVectors:
    """The token of each mask after the last block."""
    from stages.visual.region_tokens import region_tokens

    vectors, nothing = region_tokens(encoder, image, masks, reference=reference)
    return MaskVectors(vectors, nothing, "mask without a cell of the patch grid")


VIEWS.add(
    view_of(
        __name__,
        "region_token",
        "a class token for each mask, which sees the mask's patches only (Adapting CLIP)",
        Settings,
        features,
        backbones=("vit",),
        cost="one forward pass per image with one token more per mask",
    )
)
