"""Mask features as they are published: what stands beside the vectors, and taken apart again into parts."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.contract import Results
from stages.views.registry import is_mixed
from store.errors import StoreError
from store.ragged import offsets_of
from store.states import State
from store.usable import Lost, lost_vectors
from store.vectors import ReadAhead, Vectors
from store.work import Item, Parts

_NO_VECTOR = "the vector is zero, denormal or not finite"


def feature_columns(
    results: Results, keys: Mapping[str, list[str]], boxes: Mapping[str, bool]
) -> tuple[dict[str, Any], list[Lost]]:
    """The columns beside the vectors, and the masks that lack a usable one.

    Args:
        keys: label of a view -> the key of each image. boxes: label -> whether its key covers the boxes.
    """
    labels = results.kinds
    images = range(len(keys[labels[0]]))
    counts = [len(results.get(labels[0], keys[labels[0]][image])["degenerate"]) for image in images]
    offsets = offsets_of(counts)
    degenerate = {label: np.zeros(offsets[-1], np.bool_) for label in labels}
    reasons: dict[str, list[str]] = {label: [] for label in labels}
    status: list[str] = []
    lost: list[Lost] = []
    for image in images:
        items = {label: results.get(label, keys[label][image]) for label in labels}
        for label, item in items.items():
            degenerate[label][offsets[image] : offsets[image + 1]] = item["degenerate"]
            reasons[label].append(item["reason"].tobytes().decode())
        unusable = np.any([_unusable(label, item) for label, item in items.items()], axis=0)
        for row in range(counts[image]):
            said = dict.fromkeys(reasons[label][-1] for label, item in items.items() if item["degenerate"][row])
            status.append("; ".join(said) or (_NO_VECTOR if unusable[row] else ""))
            if unusable[row]:
                lost.append(Lost(State.LOST_FEATURE, status[-1], f"proposal {offsets[image] + row}"))
    return {
        "status": status,
        "offsets.image": offsets,
        "key.masks": _kept_keys(results, keys, [label for label in labels if not boxes[label]], len(images)),
        "key.boxes": _kept_keys(results, keys, [label for label in labels if boxes[label]], len(images)),
        **{f"degenerate.{label}": column for label, column in degenerate.items()},
        **{f"reason.{label}": column for label, column in reasons.items()},
    }, lost


def _kept_keys(results: Results, keys: Mapping[str, list[str]], labels: list[str], images: int) -> list[str]:
    """The key of each image for these labels, which share it; "" where a part lacks one of them."""
    if not labels:
        return [""] * images
    key = keys[labels[0]]
    return [key[image] if all(results.kept(label, key[image]) for label in labels) else "" for image in range(images)]


def _unusable(label: str, item: Item) -> NDArray[np.bool_]:
    """Which masks have no usable vector of a view, bool (n,).

    Global and local features exist for every mask. Other views may say of a mask that it has none (a heat map without a
    mean inside it): then only the rules that read that view do without.
    """
    lost = lost_vectors(item["feature"])
    return lost if is_mixed(label) else lost & ~item["degenerate"].astype(np.bool_)


def published_features(path: Path, kinds: Mapping[str, Parts], boxes: Mapping[str, bool]) -> PublishedFeatures | None:
    """The features that lie at ``path`` from an earlier run; None where there are none that can be read."""
    if not path.is_dir():
        return None
    try:
        return PublishedFeatures(Vectors(path, "mask_features"), kinds, boxes)
    except StoreError:  # damaged, or of another version: what it holds is computed
        return None


class PublishedFeatures:
    """A ``stages.contract.Published``: the items of the images of an earlier run."""

    def __init__(self, vectors: Vectors, kinds: Mapping[str, Parts], boxes: Mapping[str, bool]) -> None:
        self._vectors, self._ahead = vectors, ReadAhead(vectors)
        made: Mapping[str, str] = vectors.attrs.get("parts", {})
        self._labels = {label for label, parts in kinds.items() if made.get(label) == parts.folder.name}
        self._boxes = boxes
        self._columns: dict[str, Any] = {}

    @cached_property
    def _image_of(self) -> dict[bool, dict[str, int]]:
        """Whether boxes count -> key -> image."""
        names = {False: "key.masks", True: "key.boxes"}
        return {
            boxed: {key: image for image, key in enumerate(self._column(name)) if key} for boxed, name in names.items()
        }

    def _column(self, name: str) -> Any:
        if name not in self._columns:
            self._columns[name] = self._vectors.column(name)
        return self._columns[name]

    def item(self, kind: str, key: str) -> Item | None:
        """The item of an image, as its part had it."""
        image = self._image_of[self._boxes[kind]].get(key) if kind in self._labels else None
        if image is None:
            return None
        start, stop = (int(bound) for bound in self._column("offsets.image")[image : image + 2])
        try:
            return {
                "feature": self._ahead.rows(f"view.{kind}", start, stop),
                "degenerate": self._column(f"degenerate.{kind}")[start:stop],
                "reason": np.frombuffer(self._column(f"reason.{kind}")[image].encode(), np.uint8),
            }
        except StoreError:
            return None
