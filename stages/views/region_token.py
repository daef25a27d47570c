"""View region_token: a class token of its own for each mask, which sees the mask's patches only (docs/methods.md)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import Field

from stages.contract import Listed, Params
from stages.views.registry import VIEWS, Boxes, Masks, MaskVectors, View, ViewPass, one_by_one
from stages.views.settings import arguments_from, labels_from

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


def _open(encoder: MaskEncoder, labels: Mapping[str, Mapping[str, Any]]) -> ViewPass:
    checked = {label: arguments_from("region_token", Settings, own) for label, own in labels.items()}
    return one_by_one(features)(encoder, checked)


VIEWS.add(
    View(
        module=__name__,
        name="region_token",
        meaning="a class token for each mask, which sees the mask's patches only (Adapting CLIP)",
        labels=labels_from("region_token", Settings),
        open=_open,
        backbones=("vit",),
    )
)
