"""What stage embed_masks computes: all views of the masks of each image."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
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
    offsets = proposals["image_offsets"]
    views = {VIEWS[view] for view, _ in labels.values()}
    in_threads = all(record.built_in for record in (*views, backbone_of(encoder.model)))
    images_of_run = int(np.count_nonzero(np.diff(offsets))) if in_threads else 1

    def read(image: int) -> tuple[int, Scene | DataError]:
        name, (height, width) = index["image_name"][image], index["image_size"][image]
        rows = slice(*offsets[image : image + 2])
        try:
            pixels = encoder.shrink(read_image(images, name, index["image_digest"][image]))
        except DataError as error:
            return image, error
        return image, (pixels, decode(proposals["mask"][rows], height, width), proposals["box"][rows])

    def lost(image: int, missing: tuple[str, ...], error: DataError) -> Result:
        count = int(offsets[image + 1] - offsets[image])
        nothing = MaskVectors(np.zeros((count, encoder.dim), np.float32), np.ones(count, np.bool_), str(error))
        return Result(dict.fromkeys(missing, _item(nothing)), [str(error)], isinstance(error, TransientError))

    def encode(scenes: Iterable[tuple[int, Scene | DataError]], missing: tuple[str, ...]) -> list[Result]:
        """A result for each image, in order; `encoder.batch` of them share forward passes."""
        results: dict[int, Result] = {}
        order: list[int] = []

        def usable() -> Iterator[Scene]:
            for image, scene in scenes:
                order.append(image)
                if isinstance(scene, DataError):
                    results[image] = lost(image, missing, scene)
                else:
                    yield scene

        by_label: dict[str, list[MaskVectors]] = {label: [] for label in missing}
        left = usable()
        while some := _encode_some(encoder, islice(left, encoder.batch), labels, missing):
            for label, vectors in some.items():
                by_label[label] += vectors
        good = [image for image in order if image not in results]
        for place, image in enumerate(good):
            results[image] = Result({label: _item(by_label[label][place]) for label in missing})
        return [results[image] for image in order]

    def embed(rows: Sequence[int], missing: tuple[str, ...]) -> list[Result]:
        if device != "cpu":
            return encode(prefetch(read, rows), missing)
        each = read_and_compute(read, lambda scene: encode([scene], missing), rows, device, images_of_run)
        return [result for results in each for result in results]

    return shrinking(embed, encoder, device)


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
