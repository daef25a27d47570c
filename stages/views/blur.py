"""View blur: the whole image blurred, with the mask's own pixels left sharp (FGVP)."""

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
    """How much is blurred."""

    std: Listed[Annotated[float, Field(ge=0, allow_inf_nan=False)]] = Field(
        [100.0], min_length=1, description="of the Gaussian, pixels of the picture whose short side is the encoder's"
    )


def features(
    encoder: MaskEncoder,
    image: Prepared,
    masks: Masks,
    boxes: Boxes,
    *,
    std: float,
    preprocess: Literal["release", "encoder"],
) -> MaskVectors:
    from stages.visual.prompts import blur_features

    return blur_features(encoder, image, masks, std=std, preprocess=preprocess)


VIEWS.add(
    view_of(
        __name__,
        "blur",
        "the whole image blurred, the mask left sharp",
        Settings,
        features,
        cost="one forward pass per mask",
    )
)
