"""View global: the mask inside its scene, masked in the last k blocks of CLIP (Yu et al., CVPR 2023, sec. 3.2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from stages.contract import Listed, Params
from stages.views.registry import VIEWS, Boxes, Masks, MaskVectors, View
from stages.views.settings import arguments_from, labels_from

if TYPE_CHECKING:
    from stages.visual.mask_encoder import MaskEncoder
    from stages.visual.preprocess import Prepared


class Settings(Params):
    """How the mask acts inside CLIP; k is ``embed_masks.masked_blocks``."""

    masking: Listed[Literal["token", "attention"]] = Field(
        ["token"],
        min_length=1,
        description="token: patches outside the mask become 0; attention: the class token does not attend to them",
    )


class _Pass:
    """f_G for the masking and k of every label; the blocks before the masked ones run once for all."""

    def __init__(self, encoder: MaskEncoder, labels: Mapping[str, Mapping[str, Any]]) -> None:
        from stages.visual.passes import GlobalPass

        self._ways = {label: _way(encoder, given) for label, given in labels.items()}
        self._pass = GlobalPass(encoder, list(dict.fromkeys(self._ways.values())))

    def add(self, image: Prepared, masks: Masks, boxes: Boxes) -> None:
        self._pass.add(image, masks)

    def finish(self) -> dict[str, list[MaskVectors]]:
        by_way, reached = self._pass.finish()
        return {
            label: [
                MaskVectors(vectors, ~kept, "mask empty on the patch grid")
                for vectors, kept in zip(by_way[way], reached, strict=True)
            ]
            for label, way in self._ways.items()
        }


def _way(encoder: MaskEncoder, given: Mapping[str, Any]) -> tuple[Any, int]:
    """Masking and k; those that are not given are the encoder's own, and 3."""
    rest = {"masking": encoder.masking, **given}
    masked_blocks = int(rest.pop("masked_blocks", 3))
    return arguments_from("global", Settings, rest)["masking"], masked_blocks


def labels(settings: Any) -> dict[str, Mapping[str, Any]]:
    """``global.k3``, ``global.attention.k3``: every masking with every k."""
    return {
        f"{label}.k{k}": {**given, "masked_blocks": k}
        for label, given in labels_from("global", Settings)(settings).items()
        for k in sorted(set(settings.masked_blocks))
    }


def restricted(values: Mapping[str, Any], backbone: str) -> Mapping[str, Any]:
    """A ResNet has no class token that could leave patches out: token masking is the only one it has."""
    if backbone != "resnet" or "masking" not in values:
        return values
    return {**values, "masking": ["token"]}


VIEWS.add(
    View(
        module=__name__,
        name="global",
        meaning="the mask inside its scene: patches masked in the last k blocks",
        labels=labels,
        open=_Pass,
        restricted=restricted,
        cost="one forward pass per image, and its last k blocks once per mask",
    )
)
