"""An encoder's two towers for kinds of heat maps that ask it about images and texts alike."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from stages.clip.backbone import TextTower
from stages.clip.config import backbone_named
from stages.device.memory import rows_for
from stages.heat_maps.registry import Opening
from stages.visual.mask_encoder import MaskEncoder

_KEPT = 1 << 14
"""Text vectors that a process keeps: phrases recur from image to image."""


class Encoder:
    """The encoder of masks, and unit vectors of texts.

    Attributes:
        visual: the images' side. model: the open_clip model of both sides.
    """

    def __init__(self, opening: Opening) -> None:
        given, rows = dict(opening.encoder), rows_for(opening.device, opening.batch)
        backbone = backbone_named(given["model"])
        model, tokenizer = backbone.loaded(
            *(given["model"], given["weights"]),
            device=opening.device,
            precision=given["precision"],
            image_size=given["image_size"],
        )
        self._text: TextTower = backbone.text_tower(model, tokenizer, rows)
        self.visual = MaskEncoder(model, batch=rows)
        self.model = self.visual.model
        self.unit = lru_cache(_KEPT)(self._unit)

    def _unit(self, string: str) -> NDArray[np.float64]:
        """The unit vector of a string, float64 (D,); NaN where it has no direction. Alone in its pass: its bytes depend on
        no other string."""
        vector = self._text.encode([string])[0][0].astype(np.float64)
        length = np.linalg.norm(vector)
        unit: NDArray[np.float64] = vector / (length if length > 0 else np.nan)
        return unit


def encoder_of(opening: Opening) -> Encoder:
    """The encoder, loaded once for all kinds of a process."""
    if "encoder" not in opening.shared:
        opening.shared["encoder"] = Encoder(opening)
    encoder: Encoder = opening.shared["encoder"]
    return encoder
