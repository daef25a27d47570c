"""Kind clip_es: CLIP-ES (Lin et al., CVPR 2023), Grad-CAM of a vision transformer against competing texts (docs/methods.md)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field

from stages.contract import Params
from stages.heat_maps.registry import HEAT_MAPS, Asked, Heat, HeatMapKind, Maker, Opening
from stages.text.template import Template, prompts_of
from store.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

BACKGROUND = (
    *("ground", "land", "grass", "tree", "building", "wall", "sky", "lake", "water", "river", "sea", "railway"),
    *("railroad", "helmet", "cloud", "house", "mountain", "ocean", "road", "rock", "street", "valley", "bridge"),
)
"""What every target competes with, as the release has it for PASCAL VOC."""
_TEXT_LOST = "a text has no usable vector"


class Settings(Params):
    """The map and its refinement."""

    text: Literal["phrase", "sentence"] = Field(
        "phrase", description="the target: its noun phrase, or the whole sentence"
    )
    template: Template = Field("a clean origami {}.", description="prompt around every text")
    longest: int = Field(
        640, ge=32, le=2048, description="long side of the image at most, pixels; COCO's have no longer one"
    )
    affinity: bool = Field(True, description="whether the map is refined by the attention between patches")
    threshold: float = Field(
        0.4, ge=0, le=1, description="affinity: share of its maximum that the map keeps in its boxes"
    )


def opened(opening: Opening) -> Maker:
    """Maps of one image's phrases: one forward pass, and for each phrase a backward pass through the last block."""
    from stages.heat_maps.encoder import encoder_of
    from stages.visual.activation_map import Activations, refined

    encoder, settings = encoder_of(opening), opening.settings
    scale = float(encoder.model.logit_scale.exp())

    def maps(image: Image | None, asked: Sequence[Asked]) -> list[Heat | DataError]:
        assert image is not None
        activations = Activations.of(encoder.visual, image, settings.longest, settings.affinity)
        found: list[Heat | DataError] = []
        for each in asked:
            prompts = [prompts_of(settings.template, text) for text in texts_of(each, settings)]
            vectors = np.stack([np.mean([encoder.unit(prompt) for prompt in some], 0) for some in prompts])
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
            if not np.isfinite(vectors).all():
                found.append(DataError(_TEXT_LOST))
                continue
            heat = activations.map_of(vectors, scale)
            if settings.affinity and heat.any():
                heat = refined(heat, activations.affinity, settings.threshold)
            found.append(heat)
        return found

    return maps


def texts_of(asked: Asked, settings: Settings) -> list[str]:
    """The target, and what it competes with: the expression's other noun phrases, and the background."""
    target = asked.phrase if settings.text == "phrase" else asked.sentence
    return list(dict.fromkeys([target, *asked.others, *BACKGROUND]))


HEAT_MAPS.add(
    HeatMapKind(
        module=__name__,
        name="clip_es",
        meaning="CLIP-ES: Grad-CAM of the target against other phrases and a background, refined by attention",
        open=opened,
        settings=Settings,
        backbones=("vit",),
        cost="one forward pass per image, one backward pass through the last block per phrase of it",
    )
)
