"""What stage embed_masks computes: all views of the masks of each image."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.clip.backbone import backbone_of
from stages.clip.config import backbone_named
from stages.device.memory import rows_for, shrinking
from stages.device.prefetch import prefetch
from stages.device.threads import read_and_compute
from stages.views.registry import VIEWS, MaskVectors
from stages.visual.mask_encoder import MaskEncoder
from stages.visual.preprocess import Resized
from store.errors import DataError, TransientError
from store.images import read_image
from store.segmentation import decode
from store.table import Table
from store.units import Compute, Result
from store.work import Item

Scene = tuple[Resized, NDArray[np.bool_], NDArray[np.float32]]


def open_encoder(
    model: str, weights: Path, device: str, precision: str, batch: int | None, image_size: int = 0, **seen: Any
) -> MaskEncoder:
    """The encoder of masks of a model; ``seen``: how images enter it, see `MaskEncoder`."""
    loaded, _ = backbone_named(model).loaded(model, weights, device=device, precision=precision, image_size=image_size)
    return MaskEncoder(loaded, **seen, batch=rows_for(device, batch))


def embedder(
    encoder: MaskEncoder,
    labels: Mapping[str, tuple[str, Mapping[str, Any]]],
    index: Table,
    proposals: Table,
    images: Path,
    device: str,
) -> Compute:
    """What computes units of images, given as rows of the index.

    Images share forward passes on a GPU. On a CPU that gains nothing from some 40 masks an image on: there several images
    are encoded at once, each for itself, so that the bytes of a feature do not depend on which other images were missing. A
    view or encoder of ``extensions`` may change what it shares with other threads, such as hooks: one image at a time.

    Args:
        labels: label -> the name of its view and its arguments; these are the kinds of results.
    """
    views = {VIEWS[view] for view, _ in labels.values()}
    in_threads = all(record.built_in for record in (*views, backbone_of(encoder.model)))
    of = int(np.count_nonzero(np.diff(proposals["image_offsets"]))) if in_threads else 1
    return shrinking(_Images(encoder, labels, index, proposals, images, device, of).embed, encoder, device)


@dataclass(frozen=True)
class _Images:
    """Images as `embedder` gets them; ``of``: see `read_and_compute`."""

    encoder: MaskEncoder
    labels: Mapping[str, tuple[str, Mapping[str, Any]]]
    index: Table
    proposals: Table
    folder: Path
    device: str
    of: int

    def embed(self, rows: Sequence[int], missing: tuple[str, ...]) -> list[Result]:
        """A result for each of ``rows``."""
        if self.device != "cpu":
            return self._encode(prefetch(self._read, rows), missing)
        each = read_and_compute(self._read, lambda read: self._encode([read], missing), rows, self.device, self.of)
        return [result for results in each for result in results]

    def _read(self, image: int) -> tuple[int, Scene | DataError]:
        """The image's row with its scene, or why there is none."""
        rows, (height, width) = self._rows(image), self.index["image_size"][image]
        try:
            found = read_image(self.folder, self.index["image_name"][image], self.index["image_digest"][image])
            pixels = self.encoder.shrink(found)
        except DataError as error:
            return image, error
        return image, (pixels, decode(self.proposals["mask"][rows], height, width), self.proposals["box"][rows])

    def _rows(self, image: int) -> slice:
        first, stop = self.proposals["image_offsets"][image : image + 2].tolist()
        return slice(first, stop)

    def _encode(self, scenes: Iterable[tuple[int, Scene | DataError]], missing: tuple[str, ...]) -> list[Result]:
        """A result for each image, in order; ``encoder.batch`` of them share forward passes."""
        results: dict[int, Result] = {}
        order: list[int] = []

        def usable() -> Iterator[Scene]:
            for image, scene in scenes:
                order.append(image)
                if isinstance(scene, DataError):
                    results[image] = self._lost(image, missing, scene)
                else:
                    yield scene

        by_label: dict[str, list[MaskVectors]] = {label: [] for label in missing}
        left = usable()
        while some := _encode_some(self.encoder, islice(left, self.encoder.batch), self.labels, missing):
            for label, vectors in some.items():
                by_label[label] += vectors
        good = [image for image in order if image not in results]
        for place, image in enumerate(good):
            results[image] = Result({label: _item(by_label[label][place]) for label in missing})
        return [results[image] for image in order]

    def _lost(self, image: int, missing: tuple[str, ...], error: DataError) -> Result:
        """The stand-in for an image that cannot be read."""
        rows = self._rows(image)
        count = rows.stop - rows.start
        nothing = MaskVectors(np.zeros((count, self.encoder.dim), np.float32), np.ones(count, np.bool_), str(error))
        return Result(dict.fromkeys(missing, _item(nothing)), [str(error)], isinstance(error, TransientError))


def _encode_some(
    encoder: MaskEncoder,
    scenes: Iterator[Scene],
    labels: Mapping[str, tuple[str, Mapping[str, Any]]],
    missing: Sequence[str],
) -> dict[str, list[MaskVectors]]:
    """The vectors of some images by label; {} when no image is left."""
    by_view: dict[str, dict[str, Mapping[str, Any]]] = {}
    for label in missing:
        view, arguments = labels[label]
        by_view.setdefault(view, {})[label] = arguments
    passes = [VIEWS[view].open(encoder, arguments) for view, arguments in by_view.items()]
    taken = 0
    for pixels, masks, boxes in scenes:
        taken += 1
        prepared = encoder.prepared(pixels, masks)
        for each in passes:
            each.add(prepared, masks, boxes)
    return {label: vectors for each in passes for label, vectors in each.finish().items()} if taken else {}


def _item(features: MaskVectors) -> Item:
    return {
        "feature": features.vectors,
        "degenerate": features.degenerate,
        "reason": np.frombuffer((features.reason if features.degenerate.any() else "").encode(), np.uint8),
    }
