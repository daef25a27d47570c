"""Views of dense CLIP: the cosine of every patch with the text as a heat map (`stages.visual.dense`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from stages.contract import Listed
from stages.views.heat_map import HeatMap, HeatMapSettings, heat_map_view
from stages.views.registry import View

if TYPE_CHECKING:
    from stages.visual.mask_encoder import MaskEncoder
    from stages.visual.preprocess import Prepared


class DenseSettings(HeatMapSettings):
    """How the image enters."""

    side: Listed[int | None] = Field(
        [None], min_length=1, description="side of the squashed image, pixels; none: the method's own (docs/methods.md)"
    )


def dense_view(module: str, name: str, meaning: str) -> View:
    """The view of the method ``name`` of `stages.visual.dense`."""

    def vectors(encoder: MaskEncoder, image: Prepared, side: int | None = None) -> HeatMap:
        from stages.visual.dense import dense_map

        raw, grid = dense_map(encoder, image, name, side)
        return raw / np.linalg.norm(raw, axis=1, keepdims=True), grid

    return heat_map_view(module, name, meaning, vectors, DenseSettings, backbones=("vit",))
