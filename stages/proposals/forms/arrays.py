"""Form arrays: a .npz for each image, called as the image: ``masks`` (N, H, W) of bool or of 0 and 1, and ``scores`` (N,).

The scores may be left out, and be called ``score`` or ``predicted_iou``; arrays of objects, which are pickles, are refused.
"""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.proposals.forms.given import Given
from stages.proposals.forms.registry import FORMS, UNSCORED, MaskForm, MaskRow, Track
from store.errors import DataError
from store.memory import require_memory
from store.regular import open_regular

_ENDING = ".npz"
_SCORES = ("scores", "score", "predicted_iou")


def _rows(given: Given, track: Track) -> Iterator[MaskRow]:
    for file in track(given.named(_ENDING), "files"):
        image = given.image_of(file, _ENDING)
        try:
            masks, scores = _read(file)
        except DataError as error:
            yield MaskRow(str(file), fault=str(error))
            continue
        for number, (mask, score) in enumerate(zip(masks, scores, strict=True)):
            yield MaskRow(f"{file} masks[{number}]", file_name=image, segmentation=mask, score=score)


def _read(file: Path) -> tuple[NDArray[np.bool_], list[object]]:
    """Masks bool (N, H, W) and N scores.

    Raises:
        DataError: the file is no such archive.
    """
    try:
        with open_regular(file) as opened, np.load(opened, allow_pickle=False) as archive:
            _require_room(archive.zip)
            arrays = {name: archive[name] for name in ("masks", *_SCORES) if name in archive.files}
            names = list(archive.files)
    except (
        OSError,
        ValueError,
        EOFError,
        KeyError,
        AttributeError,
        MemoryError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise DataError(f"not an archive of arrays that numpy can read without unpickling ({error})") from error
    if "masks" not in arrays:
        raise DataError(f"expected an array masks (N, H, W), found {', '.join(names) or 'none'}")
    masks = arrays["masks"]
    if masks.ndim != 3 or masks.dtype.kind not in "bui" or (masks.size and not (0 <= masks.min() <= masks.max() <= 1)):
        raise DataError(f"masks: expected (N, H, W) of bool or of 0 and 1, got {masks.dtype} {masks.shape}")
    return masks.astype(np.bool_), _scores(arrays, len(masks))


def _require_room(archive: zipfile.ZipFile) -> None:
    """Refuse arrays that are larger than memory, by what their headers claim: masks unfold to 1,000 times their bytes and more.

    Raises:
        DataError: there is no memory for one of them, or a header claims more than the archive has.
    """
    for name in ("masks", *_SCORES):
        if (entry := f"{name}.npy") not in archive.namelist():
            continue
        size = archive.getinfo(entry).file_size
        with archive.open(entry) as opened:
            version = np.lib.format.read_magic(opened)
            header = {(1, 0): np.lib.format.read_array_header_1_0}.get(version, np.lib.format.read_array_header_2_0)
            shape, _, dtype = header(opened)
        claimed = math.prod(shape) * dtype.itemsize
        if claimed > size:
            raise DataError(f"{name}: {dtype} {shape} are {claimed:,} bytes, the archive has {size:,}: it is cut off")
        require_memory(
            2 * claimed, f"{name} {shape} of {dtype}", "save fewer masks, or COCO's run lengths in JSON Lines"
        )


def _scores(arrays: Mapping[str, NDArray[Any]], count: int) -> list[object]:
    name = next((name for name in _SCORES if name in arrays), "")
    if not name:
        return [UNSCORED] * count
    scores = arrays[name]
    if scores.shape != (count,) or scores.dtype.kind not in "fui":
        raise DataError(f"{name}: expected {count} numbers, as of masks, got {scores.dtype} {scores.shape}")
    return list(scores.astype(np.float64).tolist())


FORMS.add(
    MaskForm(
        name="arrays",
        module=__name__,
        meaning="a .npz for each image with masks (N, H, W) and scores (N,)",
        recognises=lambda given: bool(given.named(_ENDING)),
        rows=_rows,
    )
)
