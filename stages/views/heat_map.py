"""Views that are heat maps: the mean of a map inside a mask is one vector, whatever the text (`stages.visual.pooling`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from stages.contract import Listed, Params
from stages.views.registry import Boxes, Masks, MaskVectors, View, ViewPass
from stages.views.settings import arguments_from, labels_from
from stages.visual.pooling import Pooling, pooling_weights
from store.fingerprint import canonical

if TYPE_CHECKING:
    from stages.visual.mask_encoder import MaskEncoder
    from stages.visual.preprocess import Prepared

HeatMap = tuple[NDArray[np.float32], tuple[int, int]]
"""The vectors v_p of a map, float32 (rows * columns, D), row by row, and its grid (rows, columns): heat is v_p . t."""
Vectors = Callable[..., HeatMap]
"""``(encoder, image, **arguments) -> HeatMap``"""

NOTHING = {
    "inside": "empty mask, no mean inside",
    "inside_minus_outside": "mask empty or of the whole image, no mean on one side",
}


class HeatMapSettings(Params):
    """What every heat map offers."""

    pooling: Listed[Pooling] = Field(
        ["inside"], min_length=1, description="mean of the map inside the mask, or that less the mean outside"
    )


class _Pass:
    """Labels that differ in their pooling alone share a map."""

    def __init__(self, vectors: Vectors, encoder: MaskEncoder, labels: Mapping[str, dict[str, Any]]) -> None:
        self._vectors, self._encoder, self._labels = vectors, encoder, labels
        self._by_label: dict[str, list[MaskVectors]] = {label: [] for label in labels}

    def add(self, image: Prepared, masks: Masks, boxes: Boxes) -> None:
        maps: dict[str, HeatMap] = {}
        for label, arguments in self._labels.items():
            pooling, rest = arguments["pooling"], {n: v for n, v in arguments.items() if n != "pooling"}
            key = canonical(rest)
            if key not in maps:
                maps[key] = self._vectors(self._encoder, image, **rest)
            vectors, grid = maps[key]
            weights, nothing = pooling_weights(masks, grid, pooling)
            self._by_label[label].append(MaskVectors(weights @ vectors, nothing, NOTHING[pooling]))

    def finish(self) -> dict[str, list[MaskVectors]]:
        return self._by_label


def heat_map_view(
    module: str,
    name: str,
    meaning: str,
    vectors: Vectors,
    settings: type[HeatMapSettings] = HeatMapSettings,
    backbones: tuple[str, ...] = (),
) -> View:
    """A view that is the pooled heat map of ``vectors``; a mask without a mean has vector 0 and is degenerate.

    Args:
        settings: its settings; all but ``pooling`` are arguments of ``vectors``. backbones: as of `View`.
    """

    def opened(encoder: MaskEncoder, labels: Mapping[str, Mapping[str, Any]]) -> ViewPass:
        return _Pass(
            vectors, encoder, {label: arguments_from(name, settings, values) for label, values in labels.items()}
        )

    return View(
        module=module,
        name=name,
        meaning=meaning,
        labels=labels_from(name, settings),
        open=opened,
        backbones=backbones,
        cost="one forward pass per image; for a mask the mean of a map",
    )
