"""Views: the ways in which a mask of an image becomes one vector, and the registry of them.

A view is a file of this folder with one record. Its columns are ``view.<label>`` of the mask features; a view has one
label, its name, or several (``global.k1``, ``global.k3``) that share work. Everything that lists views asks here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from store.errors import ParameterError
from store.registry import Record, Registry

if TYPE_CHECKING:
    from stages.visual.mask_encoder import MaskEncoder
    from stages.visual.preprocess import Prepared

Masks = NDArray[np.bool_]
Boxes = NDArray[np.floating]


@dataclass(frozen=True, eq=False)
class MaskVectors:
    """What a view makes of N masks of one image.

    Attributes:
        vectors: float32 (N, D), raw. degenerate: rows that mean less than they should, bool (N,).
        reason: why those are degenerate.
    """

    vectors: NDArray[np.float32]
    degenerate: NDArray[np.bool_]
    reason: str = ""


class ViewPass(Protocol):
    """Takes images one after another and gives all vectors at the end, so that images can share forward passes."""

    def add(self, image: Prepared, masks: Masks, boxes: Boxes) -> None:
        """The next image, with masks bool (N, H, W) of its size and boxes float (N, 4), XYXY pixels."""

    def finish(self) -> dict[str, list[MaskVectors]]:
        """For each label the vectors of every image added, in order."""


@dataclass(frozen=True, kw_only=True)
class View(Record):
    """A way to see a mask.

    Attributes:
        name: as in ``embed_masks.views``. meaning: one line for people.
        labels: from the settings of stage embed_masks to the arguments of each label; equal arguments give equal vectors.
        open: starts a pass for some of these labels.
        reads_boxes: whether the vectors depend on the boxes, and not on the masks alone.
        restricted: the view's settings as an encoder of a kind can have them: ``(settings, kind) -> settings``.
        backbones: the kinds of encoders that offer it (`stages.clip.backbone`), () for all.
        cost: what it takes, one phrase for people.
    """

    meaning: str
    labels: Callable[[Any], dict[str, Mapping[str, Any]]]
    open: Callable[[MaskEncoder, Mapping[str, Mapping[str, Any]]], ViewPass]
    reads_boxes: bool = False
    restricted: Callable[[Mapping[str, Any], str], Mapping[str, Any]] = lambda values, backbone: values
    backbones: tuple[str, ...] = ()
    cost: str = "not stated"

    def offered_by(self, backbone: str) -> bool:
        """Whether encoders of kind ``backbone`` offer this view."""
        return not self.backbones or backbone in self.backbones

    def check_backbone(self, name: str) -> None:
        """Check that an encoder of kind ``name`` offers this view.

        Raises:
            ParameterError: it does not; with the kinds that do.
        """
        if not self.offered_by(name):
            raise ParameterError(
                f"view {self.name}: expected an encoder of kind {' or '.join(self.backbones)}, got one of kind {name}; "
                f"choose another encoder, or take {self.name} out of embed_masks.views"
            )


def is_mixed(label: str) -> bool:
    """Whether a label is one of the features that global_local mixes: what every mask has, and every rule falls back on."""
    return label.partition(".")[0] in ("global", "local")


VIEWS: Registry[View] = Registry("view", "views")

Features = Callable[..., MaskVectors]
"""``(encoder, image, masks, boxes, **arguments) -> MaskVectors``"""


class _OneByOne:
    """The pass of a view that gains nothing from seeing several images together."""

    def __init__(self, features: Features, encoder: MaskEncoder, labels: Mapping[str, Mapping[str, Any]]) -> None:
        self._features, self._encoder, self._labels = features, encoder, labels
        self._by_label: dict[str, list[MaskVectors]] = {label: [] for label in labels}

    def add(self, image: Prepared, masks: Masks, boxes: Boxes) -> None:
        for label, arguments in self._labels.items():
            self._by_label[label].append(self._features(self._encoder, image, masks, boxes, **arguments))

    def finish(self) -> dict[str, list[MaskVectors]]:
        return self._by_label


def one_by_one(features: Features) -> Callable[[MaskEncoder, Mapping[str, Mapping[str, Any]]], ViewPass]:
    """The ``open`` of a view that is given as a function of one image."""
    return lambda encoder, labels: _OneByOne(features, encoder, labels)


def labels_of(names: Sequence[str], settings: Any) -> dict[str, tuple[View, Mapping[str, Any]]]:
    """Label -> its view and arguments, for the views ``names`` with the settings of stage embed_masks.

    Raises:
        ParameterError: no such view, with the nearest name; or settings of a view that is not among ``names``.
    """
    for name in settings.settings:
        if name not in names:
            raise ParameterError(f"embed_masks.settings.{name}: {name!r} is not among embed_masks.views; add it there")
    return {label: (VIEWS[name], given) for name in names for label, given in VIEWS[name].labels(settings).items()}
