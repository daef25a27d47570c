"""View global: the mask inside its scene, masked in the last k blocks of CLIP (Yu et al., CVPR 2023, sec. 3.2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from stages.views.registry import VIEWS, Boxes, Masks, MaskVectors, View

if TYPE_CHECKING:
    from stages.visual.mask_encoder import MaskEncoder
    from stages.visual.preprocess import Prepared


class _Pass:
    """f_G for the k of every label; the blocks before the masked ones run once for all."""

    def __init__(self, encoder: MaskEncoder, labels: Mapping[str, Mapping[str, Any]]) -> None:
        from stages.visual.passes import GlobalPass

        self._ks = {label: int(given.get("masked_blocks", 3)) for label, given in labels.items()}
        self._pass = GlobalPass(encoder, sorted(set(self._ks.values())))

    def add(self, image: Prepared, masks: Masks, boxes: Boxes) -> None:
        self._pass.add(image, masks)

    def finish(self) -> dict[str, list[MaskVectors]]:
        by_k, reached = self._pass.finish()
        return {
            label: [
                MaskVectors(vectors, ~kept, "mask empty on the patch grid")
                for vectors, kept in zip(by_k[k], reached, strict=True)
            ]
            for label, k in self._ks.items()
        }


VIEWS.add(
    View(
        module=__name__,
        name="global",
        meaning="the mask inside its scene: patches masked in the last k blocks",
        labels=lambda settings: {f"global.k{k}": {"masked_blocks": k} for k in sorted(set(settings.masked_blocks))},
        open=_Pass,
    )
)
