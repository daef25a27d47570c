"""View score_map: the heat map of MaskCLIP and DenseCLIP, from CLIP's ResNet without its attention (docs/methods.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from stages.contract import Listed
from stages.views.heat_map import HeatMap, HeatMapSettings, heat_map_view
from stages.views.registry import VIEWS

if TYPE_CHECKING:
    from stages.visual.mask_encoder import MaskEncoder
    from stages.visual.preprocess import Prepared


class Settings(HeatMapSettings):
    """The map, and what is taken of it."""

    bias: Listed[Literal["clip", "none"]] = Field(
        ["clip"], min_length=1, description="whether the value and output projections keep the biases that CLIP trained"
    )


def vectors(encoder: MaskEncoder, image: Prepared, bias: str) -> HeatMap:
    """D_p = unit(W_c (W_v F_p + b_v) + b_c)."""
    from stages.visual.attention_pool import score_map

    return score_map(encoder, image, bias=bias == "clip"), encoder.tower.grid


VIEWS.add(
    heat_map_view(
        __name__,
        "score_map",
        "heat map of CLIP's ResNet, its attention left out (MaskCLIP, DenseCLIP)",
        vectors,
        Settings,
        backbones=("resnet",),
    )
)
