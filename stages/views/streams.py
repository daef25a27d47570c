"""Views of HybridGL: two streams of CLIP, the masked object and its blurred scene, that meet in the last blocks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from stages.contract import Listed, Params
from stages.views.registry import Boxes, Masks, MaskVectors, View
from stages.views.settings import view_of

if TYPE_CHECKING:
    from stages.visual.mask_encoder import MaskEncoder
    from stages.visual.preprocess import Prepared


class EntrySettings(Params):
    """How the image enters."""

    preprocess: Listed[Literal["release", "encoder"]] = Field(
        ["release"],
        min_length=1,
        description="normalised and resized as the release does, or as this encoder reads images",
    )


class HybridSettings(EntrySettings):
    """Where the streams meet."""

    masked_blocks: Listed[int] = Field([3], min_length=1, description="k: in how many last blocks the streams meet")


def hybrid_view(module: str, name: str, meaning: str, directions: Sequence[Literal["g2l", "l2g"]]) -> View:
    """The view that sums these directions of `stages.visual.hybrid`."""

    def features(
        encoder: MaskEncoder,
        image: Prepared,
        masks: Masks,
        boxes: Boxes,
        *,
        masked_blocks: int,
        preprocess: Literal["release", "encoder"],
    ) -> MaskVectors:
        from stages.visual.hybrid import hybrid_features

        return hybrid_features(encoder, image, masks, directions, masked_blocks=masked_blocks, preprocess=preprocess)

    return view_of(
        module, name, meaning, HybridSettings, features, backbones=("vit",), cost="two forward passes per mask"
    )
