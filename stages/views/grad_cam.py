"""View grad_cam: Grad-CAM of CLIP's ResNet for any text, in closed form: no backward pass (docs/methods.md)."""

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

    sign: Listed[Literal["usual", "released"]] = Field(
        ["usual"],
        min_length=1,
        description="usual: what speaks for the text; released: the negative, as the release has it",
    )


def vectors(encoder: MaskEncoder, image: Prepared, sign: str) -> HeatMap:
    """The map of any text t is g_p . t / |t|."""
    from stages.visual.attention_pool import grad_cam

    usual = grad_cam(encoder, image)
    return (usual if sign == "usual" else -usual), encoder.tower.grid


VIEWS.add(
    heat_map_view(
        __name__,
        "grad_cam",
        "Grad-CAM heat map of CLIP's ResNet, for any text, without a backward pass",
        vectors,
        Settings,
        backbones=("resnet",),
    )
)
