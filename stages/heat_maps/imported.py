"""Kind imported: heat maps that any model has made, in a folder of arrays and an index of them (docs/methods.md).

``<heat.folder>/maps.jsonl`` has a JSON object on each line: ``image`` (its name, the end of its path, its stem, or its id),
``phrase`` (the sentence of the expression), ``file`` (below the folder): a NumPy array (.npy) of rows and columns of
numbers, larger where the phrase is meant.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stages.datasets.fields import shown
from stages.heat_maps.registry import HEAT_MAPS, Asked, Heat, HeatMapKind, Maker, Opening, Source
from stages.proposals.image_names import ImageNames
from store.errors import DataError, TransientError, reason
from store.regular import NotPlain, leaves, read_regular
from store.table import Table

if TYPE_CHECKING:
    from PIL.Image import Image

INDEX = "maps.jsonl"
MOST_INDEX, MOST_BYTES, MOST_SIDE = 1 << 30, 1 << 23, 1024
"""Bytes of the index; bytes of a map, and its rows or columns: 1024 x 1024 numbers of 64 bits."""
_NO_ROW = f"no row of {INDEX} is about this image and phrase"
Rows = dict[tuple[int, str], str]
"""(row of the image, phrase as `plain_phrase` has it) -> file below the folder."""


def plain_phrase(text: str) -> str:
    """A phrase without what two writers of it may differ in: case, and how wide its gaps are."""
    return " ".join(text.split()).casefold()


def located(folder: Path, index: Table, asked: Sequence[Asked]) -> tuple[list[Source], list[str]]:
    """The file of each map with its digest, and what is wrong in the index.

    Raises:
        DataError: there is no index, or it cannot be read.
    """
    rows, problems = read_index(folder, index)
    files = []
    for each in asked:
        phrases = map(plain_phrase, (each.sentence, *each.raw))
        files.append(next((rows[each.image, p] for p in phrases if (each.image, p) in rows), ""))
    sources = {file: source_of(folder, file) for file in dict.fromkeys(files)}
    return [sources[file] for file in files], problems


def read_index(folder: Path, index: Table) -> tuple[Rows, list[str]]:
    """The rows about images of the index table (others are nobody's fault), and what is wrong in the rest.

    Raises:
        DataError: it cannot be read.
    """
    path = folder / INDEX
    try:
        lines = read_regular(path, MOST_INDEX).decode("utf-8-sig").split("\n")
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path}: expected the index of imported heat maps, a JSON object on each line, cannot read it ({reason(error)}); "
            "write one (docs/methods.md), correct heat.folder, or take imported out of heat.maps"
        ) from error
    names, rows, problems = ImageNames(index), Rows(), []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            images, phrase, file = _row(line, names)
        except DataError as error:
            problems.append(f"{path} [{number}]: {error}")
            continue
        if any(rows.setdefault((image, phrase), file) != file for image in images):
            problems.append(f"{path} [{number}]: another map of an image and phrase that has one; the first one counts")
    return rows, problems


def _row(line: str, names: ImageNames) -> tuple[list[int], str, str]:
    """The images (none for one that the profile does not have), phrase and file of a line.

    Raises:
        DataError: it does not say them, or says them of several images.
    """
    try:
        row: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"expected a JSON object, got {shown(line)}") from error
    if not isinstance(row, dict):
        raise DataError(f"expected a JSON object, got {shown(row)}")
    for name in ("phrase", "file"):
        if not isinstance(row.get(name), str) or not row[name].strip():
            raise DataError(f"{name}: expected text, got {shown(row.get(name))}")
    image = row.get("image")
    called, images = names.named_by(*((image, None) if isinstance(image, str) else (None, image)))
    if len(images) > 1:
        raise DataError(f"image: {called} may be {names.shown(images)}; write more of its path")
    return images, plain_phrase(row["phrase"]), row["file"]


def source_of(folder: Path, file: str) -> Source:
    """A map's file with its digest; one that is not there has none."""
    if not file:
        return Source("", "", _NO_ROW)
    try:
        if Path(file).is_absolute() or leaves(folder, folder / file):
            return Source(file, "", f"{folder / file}: leads out of heat.folder; put the file itself there")
        return Source(file, hashlib.sha256(read_regular(folder / file, MOST_BYTES)).hexdigest())
    except (NotPlain, IsADirectoryError, ValueError, RuntimeError) as error:
        return Source(file, "", f"{folder / file}: expected a plain file with a map ({reason(error)})")
    except OSError as error:
        large = error.errno == errno.EFBIG
        return Source(file, "", f"{folder / file}: expected a map, {reason(error)}" if large else "")


def opened(opening: Opening) -> Maker:
    """Maps from their files."""

    def maps(image: Image | None, asked: Sequence[Asked]) -> list[Heat | DataError]:
        return [_read(opening.folder, each.sources["imported"]) for each in asked]

    return maps


def _read(folder: Path, source: Source) -> Heat | DataError:
    if source.fault:
        return DataError(source.fault)
    path = folder / source.file
    try:
        data = read_regular(path, MOST_BYTES)
    except OSError as error:
        return TransientError(f"{path}: expected a heat map, cannot read it ({reason(error)}); put it there")
    if hashlib.sha256(data).hexdigest() != source.digest:
        return TransientError(f"{path}: changed while the stage ran; run it again")
    try:
        return array_of(data)
    except DataError as error:
        return DataError(f"{path}: {error}")


def array_of(data: bytes) -> Heat:
    """The map that an .npy file holds, float32 (rows, columns). Its header is checked before anything is made of it.

    Raises:
        DataError: it is none, holds Python objects, is not two-dimensional, too large, or cut off.
    """
    file = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(file)
        header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
        shape, fortran, dtype = header(file)
    except (ValueError, KeyError, SyntaxError, TypeError, EOFError, RecursionError, MemoryError) as error:
        raise DataError(f"expected a NumPy array (.npy), cannot read its header ({reason(error)})") from error
    if dtype.kind not in "fiub":
        raise DataError(
            f"expected numbers, got {'pickled objects' if dtype.hasobject else dtype}: save a float32 array"
        )
    if len(shape) != 2 or not all(1 <= length <= MOST_SIDE for length in shape):
        raise DataError(f"expected rows and columns, 1 to {MOST_SIDE} of each, got shape {shape}")
    if len(data) - file.tell() != shape[0] * shape[1] * dtype.itemsize:
        raise DataError(
            f"expected {shape[0]} x {shape[1]} values of {dtype}, got another number of bytes: it is cut off"
        )
    values = np.frombuffer(data, dtype, offset=file.tell()).reshape(shape, order="F" if fortran else "C")
    with np.errstate(over="ignore", invalid="ignore"):
        heat = values.astype(np.float32)
    if not np.isfinite(heat).all():
        raise DataError("expected finite numbers of 32 bits, got NaN, infinity or larger ones")
    return heat


HEAT_MAPS.add(
    HeatMapKind(
        module=__name__,
        name="imported",
        meaning="maps that any model has made, from a folder",
        open=opened,
        encodes=False,
        reads_images=False,
        locate=located,
        cost="reading one small array per image and phrase",
    )
)
