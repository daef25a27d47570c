"""What stage embed_masks computes: all views of the masks of an image, image after image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.clip.config import backbone_named
from stages.device.memory import rows_for, shrinking
from stages.device.prefetch import prefetch
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

    Images share forward passes on a GPU. On a CPU that gains nothing from some 40 masks an image on, and image by image
    the bytes of a feature do not depend on which other images were missing.

    Args:
        labels: label -> the name of its view and its arguments; these are the kinds of results.
    """
    offsets = proposals["image_offsets"]

    def read(image: int) -> Scene | DataError:
        name, (height, width) = index["image_name"][image], index["image_size"][image]
        rows = slice(*offsets[image : image + 2])
        try:
            pixels = encoder.shrink(read_image(images, name, index["image_digest"][image]))
        except DataError as error:
            return error
        return pixels, decode(proposals["mask"][rows], height, width), proposals["box"][rows]

    def lost(image: int, missing: tuple[str, ...], error: DataError) -> Result:
        count = int(offsets[image + 1] - offsets[image])
        nothing = MaskVectors(np.zeros((count, encoder.dim), np.float32), np.ones(count, np.bool_), str(error))
        return Result(dict.fromkeys(missing, _item(nothing)), [str(error)], isinstance(error, TransientError))

    def embed(rows: Sequence[int], missing: tuple[str, ...]) -> list[Result]:
        results: dict[int, Result] = {}
        good: list[int] = []

        def scenes() -> Iterator[Scene]:
            for image, scene in zip(rows, prefetch(read, rows), strict=True):
                if isinstance(scene, DataError):
                    results[image] = lost(image, missing, scene)
                else:
                    good.append(image)
                    yield scene

        by_label: dict[str, list[MaskVectors]] = {label: [] for label in missing}
        left = scenes()
        while some := _encode_some(encoder, islice(left, 1 if device == "cpu" else encoder.batch), labels, missing):
            for label, vectors in some.items():
                by_label[label] += vectors
        for place, image in enumerate(good):
            results[image] = Result({label: _item(by_label[label][place]) for label in missing})
        return [results[image] for image in rows]

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
