"""View red_circle: the whole image with a red ellipse drawn in the mask's box (FGVP)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from stages.contract import Listed
from stages.views.registry import VIEWS, Boxes, Masks, MaskVectors
from stages.views.settings import view_of
from stages.views.streams import EntrySettings

if TYPE_CHECKING:
    from stages.visual.mask_encoder import MaskEncoder
    from stages.visual.preprocess import Prepared


class Settings(EntrySettings):
    """The line."""

    thickness: Listed[Annotated[int, Field(ge=1)]] = Field(
        [2], min_length=1, description="pixels of the picture whose short side is the encoder's"
    )


def features(
    encoder: MaskEncoder,
    image: Prepared,
    masks: Masks,
    boxes: Boxes,
    *,
    thickness: int,
    preprocess: Literal["release", "encoder"],
) -> MaskVectors:
    from stages.visual.prompts import red_circle_features

    return red_circle_features(encoder, image, masks, boxes, thickness=thickness, preprocess=preprocess)


VIEWS.add(
    view_of(
        __name__,
        "red_circle",
        "the whole image with a red ellipse in the mask's box",
        Settings,
        features,
        reads_boxes=True,
        cost="one forward pass per mask",
    )
)
