"""Rows of Parquet files as the Hugging Face hub has them: ``<split>-00000-of-00002-<hash>.parquet``, pictures in a column.

pyarrow comes with the extra ``tables`` and is imported when a file is read.
"""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from stages.datasets.fields import shown
from stages.datasets.files import REMEDY, data_folder
from store.errors import CodeError, DataError, ParameterError, extra, nearest
from store.images import opened_picture
from store.memory import MOST_UNFOLDED, memory_of_machine, most_unfolded, require_memory

PATTERN = "**/*.parquet"
_AT_ONCE = 32
"""Rows in memory, at most: each may hold a picture."""
_AGAIN = "fetch the file again (a clone without Git LFS has pointers only: git lfs pull)"


def parquet_files(folder: Path) -> list[Path]:
    """All Parquet files below a folder, by name; where there are none, the pattern of what is expected."""
    return sorted(folder.glob(PATTERN), key=lambda file: file.name) or [folder / "<split>-*.parquet"]


def found_files(root: Path, name: str) -> list[Path]:
    """The Parquet files of data set ``name`` below ``root``.

    Raises:
        ParameterError, DataError: there is no such data set, or it has none.
    """
    folder = data_folder(root, name, PATTERN)
    files = parquet_files(folder)
    if not files[0].is_file():
        raise DataError(f"{folder}: expected {files[0].name}, found no Parquet file at all; {REMEDY}")
    return files


def split_of(file: Path) -> str:
    """The split in a file's name: what stands before the first "-"."""
    return file.name.removesuffix(".parquet").partition("-")[0]


def files_by_split(files: Iterable[Path], splits: Iterable[str]) -> dict[str, list[Path]]:
    """Split -> its files, in order.

    Raises:
        ParameterError: a split has none; with those that have.
    """
    known: dict[str, list[Path]] = {}
    for file in files:
        known.setdefault(split_of(file), []).append(file)
    for split in splits:
        if split not in known:
            where = next(iter(known.values()))[0].parent
            raise ParameterError(f"split {split!r} does not exist in {where}; {nearest(split, known)}")
    return {split: known[split] for split in splits}


def column_names(file: Path) -> list[str]:
    """The names of a file's columns.

    Raises:
        CodeError: pyarrow is not installed. DataError: the file cannot be read.
    """
    with _opened(file) as opened:
        return list(opened.schema_arrow.names)


def rows(files: Iterable[Path], columns: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Where each row stands, and what it has of ``columns``; those that a file lacks are left out.

    Raises:
        CodeError: pyarrow is not installed. DataError: a file cannot be read.
    """
    for file in files:
        number = 0
        with _opened(file) as opened:
            wanted = [name for name in opened.schema_arrow.names if name in columns]
            for row in _checked(file, opened, wanted, _rows_at_once(file, opened.metadata, wanted)):
                yield f"{file} [{number}]", row
                number += 1


def as_object(value: object) -> Mapping[str, Any]:
    """A struct, or the JSON object in a text; {} for anything else."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return {}
    return value if isinstance(value, Mapping) else {}


def picture_bytes(value: object) -> bytes:
    """The file in a column of pictures, {"bytes": ..., "path": ...}.

    Raises:
        DataError: it has none.
    """
    data = value.get("bytes") if isinstance(value, Mapping) else value
    if not isinstance(data, bytes) or not data:
        raise DataError(f"image: expected a picture with its bytes, got {shown(data)}")
    return data


def picture_size(data: bytes) -> tuple[int, int, str]:
    """Width, height and the usual extension of a picture, from its header.

    Raises:
        DataError: it is none that Pillow can open.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with opened_picture(io.BytesIO(data)) as image:
            return image.width, image.height, ".jpg" if image.format == "JPEG" else f".{str(image.format).lower()}"
    except UnidentifiedImageError as error:  # its text holds the address of the buffer
        raise DataError("image: not a picture that Pillow can open (unknown format)") from error
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError) as error:
        raise DataError(f"image: not a picture that Pillow can open ({error})") from error


def _rows_at_once(file: Path, metadata: Any, columns: Sequence[str]) -> int:
    """How many rows fit into half of the memory, even if each is the whole dictionary of its column.

    Raises:
        DataError: the columns unfold to more than half of the memory, or to too many times the file.
    """
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    chunks = [[group.column(number) for number in range(group.num_columns)] for group in groups]
    needs = [
        sum(c.total_uncompressed_size for c in row if c.path_in_schema.partition(".")[0] in columns) for row in chunks
    ]
    most = max(needs, default=0)
    require_memory(most, f"{file}: a group of its rows", "write it with smaller row groups")
    if sum(needs) > most_unfolded(file.stat().st_size):
        raise DataError(
            f"{file}: its {file.stat().st_size:,} bytes unfold to {sum(needs):,}, more than {MOST_UNFOLDED} times as many; "
            "write it without compression if it is what it should be"
        )
    room = memory_of_machine() // 2
    return max(1, min(_AT_ONCE, room // most)) if room and most else _AT_ONCE


def _checked(file: Path, opened: Any, columns: list[str], at_once: int) -> Iterator[dict[str, Any]]:
    try:
        for batch in opened.iter_batches(batch_size=at_once, columns=columns):
            yield from batch.to_pylist()
    except (OSError, ValueError) as error:  # pyarrow's own errors derive from these
        raise DataError(f"{file}: cannot be read ({error}); {_AGAIN}") from error


def _opened(file: Path) -> Any:
    """pyarrow's ParquetFile, a context manager."""
    try:
        return _pyarrow().ParquetFile(file)
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: expected a Parquet file, cannot read it ({error}); {_AGAIN}") from error


def _pyarrow() -> ModuleType:
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise CodeError(
            f"data sets in Parquet need the library pyarrow, it is not installed; run: {extra('tables')}"
        ) from error
    module: ModuleType = parquet
    return module
