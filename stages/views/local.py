"""View local: the masked crop through CLIP's own image encoder (Yu et al., CVPR 2023, sec. 3.2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from stages.views.registry import VIEWS, Boxes, Masks, MaskVectors, View

if TYPE_CHECKING:
    from stages.visual.mask_encoder import MaskEncoder
    from stages.visual.preprocess import Prepared


class _Pass:
    """f_L of every crop; all labels have the encoder's own fill, so there is one."""

    def __init__(self, encoder: MaskEncoder, labels: Mapping[str, Mapping[str, Any]]) -> None:
        from stages.visual.passes import LocalPass

        self._labels = list(labels)
        self._pass = LocalPass(encoder)
        self._degenerate: list[NDArray[np.bool_]] = []

    def add(self, image: Prepared, masks: Masks, boxes: Boxes) -> None:
        from stages.visual.preprocess import degenerate_boxes

        self._pass.add(image, masks, boxes)
        self._degenerate.append(degenerate_boxes(boxes, image.height, image.width))

    def finish(self) -> dict[str, list[MaskVectors]]:
        features = [
            MaskVectors(vectors, degenerate, "zero-size box, widened to a pixel")
            for vectors, degenerate in zip(self._pass.finish(), self._degenerate, strict=True)
        ]
        return dict.fromkeys(self._labels, features)


VIEWS.add(
    View(
        module=__name__,
        name="local",
        meaning="the masked crop: what is outside the mask is filled",
        labels=lambda settings: {"local": {"fill": settings.fill}},
        open=_Pass,
        reads_boxes=True,
        cost="one forward pass per mask",
    )
)
