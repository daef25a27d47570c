"""What stage heat computes: all kinds of maps of an image's phrases, image after image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
from PIL import Image

from stages.heat_maps.registry import HEAT_MAPS, Asked, Heat, Made, Opening
from store.errors import DataError, TransientError
from store.images import read_image
from store.states import State
from store.table import Table
from store.units import Compute, Result
from store.work import Item

LOST = "lost map"
"""The state of a phrase without a map, for any other reason than that its image cannot be read."""
_SAME = "the map is the same everywhere: it prefers no place"


def mapper(openings: Mapping[str, Opening], index: Table, images: Path) -> Compute:
    """What computes units of `Asked`, those of an image together.

    Args:
        openings: kind -> what it is opened with.
    """
    makers = {name: HEAT_MAPS[name].open(opening) for name, opening in openings.items()}

    def made(name: str, image: Image.Image | DataError | None, asked: Sequence[Asked]) -> Made:
        if not HEAT_MAPS[name].reads_images:
            return makers[name](None, asked)
        return [image] * len(asked) if isinstance(image, DataError) else makers[name](image, asked)

    def compute(inputs: Sequence[Asked], missing: tuple[str, ...]) -> list[Result]:
        results: list[Result] = []
        for row, group in groupby(inputs, key=lambda each: each.image):
            asked, image = list(group), None
            if any(HEAT_MAPS[name].reads_images for name in missing):
                image = _opened(images, index, row)
            by_kind = {name: made(name, image, asked) for name in missing}
            for place in range(len(asked)):
                found = {name: _usable(maps[place]) for name, maps in by_kind.items()}
                faults = [each for each in found.values() if isinstance(each, DataError)]
                transient = any(isinstance(each, TransientError) for each in faults)
                items = {name: item_of(each, unreadable=each is image) for name, each in found.items()}
                results.append(Result(items, list(dict.fromkeys(map(str, faults))), transient))
        return results

    return compute


def _opened(images: Path, index: Table, row: int) -> Image.Image | DataError:
    try:
        return read_image(images, index["image_name"][row], index["image_digest"][row])
    except DataError as error:
        return error


def _usable(heat: Heat | DataError) -> Heat | DataError:
    """The map, unless it says nothing: then its means would choose the first mask by accident."""
    if isinstance(heat, DataError):
        return heat
    with np.errstate(over="ignore"):
        heat = heat.astype(np.float32)
    if not np.isfinite(heat).all():
        return DataError("the map has values that are no finite numbers of 32 bits")
    return DataError(_SAME) if (heat == heat.flat[0]).all() else heat


def item_of(heat: Heat | DataError, unreadable: bool = False) -> Item:
    """A map as a part holds it: its values row by row, its grid; or the state and reason of one that is lost."""
    values, grid, state, status = np.zeros(0, np.float32), (0, 0), "", ""
    if isinstance(heat, DataError):
        state, status = State.UNREADABLE_IMAGE if unreadable else LOST, str(heat)
    else:
        values, grid = np.ascontiguousarray(heat).ravel(), heat.shape
    return {
        "values": values,
        "grid": np.array([grid], np.int32),
        "state": np.frombuffer(state.encode(), np.uint8),
        "status": np.frombuffer(status.encode("utf-8", "backslashreplace"), np.uint8),
    }
