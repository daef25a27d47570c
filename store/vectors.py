"""Vectors: a folder of sharded Zarr v3 arrays with checksums, and the manifest that makes it complete.

Zarr reads a missing shard as zeros, takes any shard of the right form, and does not protect its own metadata. So
``manifest.json`` names every file with what it must be: of a shard the digest of the checksums of its chunks (a
thousandth of its bytes: opening a folder compares them all, see docs/performance.md), of metadata the digest, of a small
column the digest of its values, and its own digest. Zarr compares each chunk that it reads with its crc32c, so values are
those that were written, or there is an error. A file that is replaced or gone after opening is an error of the read.
"""

from __future__ import annotations

import glob
import hashlib
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from store import schema
from store.errors import StoreError, reading, repair
from store.fingerprint import array_digest, canonical, file_digest, file_identity, fingerprint
from store.publish import replacing
from store.ragged import Bytes
from store.table import check_description, check_digest, digests_of, flatten

if TYPE_CHECKING:
    import zarr

CHUNK_ROWS = 256
SHARD_ROWS = 16_384
MANIFEST = "manifest.json"
_CHECK = "manifest_digest"
_CRC = 4
"""Bytes of a crc32c."""
_NONE = "no file"
_ATTEMPTS = 3
_OPENINGS, _PAUSE = 20, 0.02
"""How often a folder that is being replaced is opened, and the seconds between."""

Blocks = Iterable[NDArray[np.float32]]


def write_vectors(
    path: Path,
    name: str,
    rows: int,
    width: int,
    vectors: Mapping[str, Blocks],
    columns: Mapping[str, Any],
    config: Mapping[str, Any],
    made_from: Mapping[str, str],
    **attrs: Any,
) -> None:
    """Write the vector table ``name`` to the folder ``path``, completely or not at all.

    Args:
        vectors: column -> blocks of float32 (n, width) that add up to ``rows``; read one after another, so a column
            larger than memory can be streamed. Whole shards are written at a time.
        columns: the other columns of the table, in memory.
    """
    import zarr  # a fifth of a second, which stages without vectors need not spend

    with replacing(path) as temporary:
        group = zarr.create_group(temporary, zarr_format=3)
        digests = {key: _write_blocks(group, key, rows, width, blocks) for key, blocks in vectors.items()}
        shapes = {key: np.broadcast_to(np.float32(0), (rows, width)) for key in vectors}
        arrays = flatten(name, {**columns, **shapes}, schema.TABLES[name])
        small = {key: array for key, array in arrays.items() if key not in vectors}
        for key, array in small.items():
            _create(group, key, array.shape, array.dtype)[...] = array
        digests |= {key: array_digest(array) for key, array in small.items()}
        described = {
            "schema": name,
            "version": schema.VERSION,
            **digests_of(digests),
            "made_from": dict(made_from),
            "config": dict(config),
            "rows": rows,
            "width": width,
            **attrs,
            "files": {
                file.relative_to(temporary).as_posix(): _stamp(file)
                for file in sorted(temporary.rglob("*"))
                if file.is_file()
            },
        }
        (temporary / MANIFEST).write_text(canonical({**described, _CHECK: fingerprint(described)}))


def _stamp(file: Path) -> str:
    """What the manifest holds of a file: of metadata the digest, of a shard that of its chunks' places and checksums.

    A shard ends with offset and length of each chunk (-1 for one that is not there) and their crc32c; a chunk with its own.
    """
    if file.name == "zarr.json":
        return file_digest(file)
    with file.open("rb") as opened:
        size, ends = opened.seek(0, os.SEEK_END), 16 * (SHARD_ROWS // CHUNK_ROWS) + _CRC
        opened.seek(max(0, size - ends))
        index = opened.read()
        digest = hashlib.sha256(canonical(size).encode() + index)
        for start, length in np.frombuffer(index[:-_CRC], "<u8").reshape(-1, 2).tolist() if size >= ends else ():
            if start + length <= size:
                digest.update(os.pread(opened.fileno(), _CRC, start + length - _CRC))
    return digest.hexdigest()


def _create(group: zarr.Group, key: str, shape: tuple[int, ...], dtype: Any) -> zarr.Array[Any]:
    from zarr.codecs import Crc32cCodec

    return group.create_array(
        key,
        shape=shape,
        dtype=dtype,
        chunks=(CHUNK_ROWS, *shape[1:]),
        shards=(SHARD_ROWS, *shape[1:]),
        compressors=[Crc32cCodec()],
        fill_value=0,
    )


def _write_blocks(group: zarr.Group, key: str, rows: int, width: int, blocks: Blocks) -> str:
    """Write ``blocks`` as array ``key``, a whole shard at a time; return the digest of the values."""
    array = _create(group, key, (rows, width), np.float32)
    digest = hashlib.sha256()
    buffer = np.empty((min(SHARD_ROWS, rows), width), np.float32)
    held = written = 0
    for block in blocks:
        if block.dtype != np.float32 or block.shape[1:] != (width,):
            raise StoreError(f"column {key}: expected blocks of float32 (n, {width}), got {block.dtype} {block.shape}")
        digest.update(np.ascontiguousarray(block).data)
        while len(block):
            taken = block[: len(buffer) - held]
            if not len(taken):
                raise StoreError(f"column {key}: got more than the {rows} rows expected")
            buffer[held : held + len(taken)] = taken
            held, block = held + len(taken), block[len(taken) :]
            if held == len(buffer) or written + held == rows:
                array[written : written + held] = buffer[:held]
                written, held = written + held, 0
    if written + held != rows:
        raise StoreError(f"column {key}: expected {rows} rows, got {written + held}")
    return digest.hexdigest()


class Vectors:
    """An opened vector table: ``rows(column, start, stop)`` reads a range, ``column(name)`` a whole small column.

    Every file that is read is the one that was checked, even if the folder is replaced in the meantime.
    """

    def __init__(self, path: Path, name: str) -> None:
        """Open the folder ``path`` as table ``name``.

        Where it is replaced meanwhile, the new one is opened.

        Raises:
            StoreError: no folder, another table, a damaged manifest, or a file of it missing or not as it was written.
        """
        self.path, self.name = path, name
        self.remedy = repair(path)
        for attempt in range(1, _OPENINGS + 1):  # a writer may replace the folder between the files that are compared
            before = file_identity(path / MANIFEST)
            try:
                self._open()
            except StoreError:
                if attempt == _OPENINGS or not self._is_replaced(before):
                    raise
            else:
                if file_identity(path / MANIFEST) == before or attempt == _OPENINGS:
                    self._opened = before
                    return
            time.sleep(_PAUSE)

    def _is_replaced(self, before: tuple[int, ...]) -> bool:
        """Whether the folder was replaced since its manifest had this identity, or a writer is at it where there is none."""
        writers = self.path.parent.glob(f".{glob.escape(self.path.name)}.*.tmp")
        return file_identity(self.path / MANIFEST) != before or (not before and any(writers))

    @contextmanager
    def _reading(self, column: str) -> Iterator[None]:
        """Errors about a column; where another run has replaced the folder since it was opened, they say that instead."""
        try:
            with reading(self.path / column, self.remedy):
                yield
        except StoreError as error:
            if file_identity(self.path / MANIFEST) in (self._opened, ()):
                raise
            raise StoreError(
                f"{self.path}: another run replaced it while it was read; run the same command again"
            ) from error

    def _open(self) -> None:
        import zarr

        path, name = self.path, self.name
        self._checked: dict[str, tuple[int, ...]] = {}
        with reading(path, self.remedy):
            self.attrs = check_description(path, name, (path / MANIFEST).read_bytes(), self.remedy)
            if self.attrs.pop(_CHECK, None) != fingerprint(self.attrs):
                raise StoreError(f"{path / MANIFEST}: damaged, its digest is another one; {self.remedy}")
            shards = {file.relative_to(path).as_posix() for file in path.glob("*/c/**/*") if file.is_file()}
            for file in sorted(shards | self.attrs["files"].keys()):
                self._check(file)
            self.group = zarr.open_group(path, mode="r", zarr_format=3)

    def _check(self, file: str) -> bool:
        """Compare ``file`` with the manifest if it changed since the last check; return whether it had.

        Raises:
            StoreError: its content is not what was written.
        """
        path, expected = self.path / file, self.attrs["files"].get(file, _NONE)
        identity = file_identity(path)
        if identity == self._checked.get(file, None):
            return False
        actual = _stamp(path) if identity else _NONE
        if actual != expected:
            raise StoreError(f"{path}: expected what was written ({expected[:16]}), found {actual[:16]}; {self.remedy}")
        self._checked[file] = identity
        return True

    @property
    def digest(self) -> str:
        return str(self.attrs["digest"])

    def members(self, family: str) -> list[str]:
        """The members of a family of columns: of ``view`` the labels of all views, sorted."""
        return schema.members(sorted({file.partition("/")[0] for file in self.attrs["files"]}), family)

    @property
    def width(self) -> int:
        """D, the numbers of a vector."""
        return int(self.attrs["width"])

    @property
    def rows_stored(self) -> int:
        """Rows of each vector column."""
        return int(self.attrs["rows"])

    def rows(self, column: str, start: int = 0, stop: int | None = None) -> NDArray[np.float32]:
        """Rows [start, stop) of a vector column, float32 (stop - start, D); all by default.

        Raises:
            StoreError: no such column, a wrong checksum, or a file that was removed or replaced since it was opened.
        """
        with self._reading(column):
            array: Any = self.group[column]
            stop = array.shape[0] if stop is None else min(stop, array.shape[0])
            shards = [f"{column}/c/{shard}/0" for shard in range(start // SHARD_ROWS, -(-stop // SHARD_ROWS))]
            for _ in range(_ATTEMPTS):
                values = np.asarray(array[start:stop])
                replaced = [shard for shard in shards if self._check(shard)]
                if not replaced:  # what was read came from the files that were checked before
                    return values
            raise StoreError(f"{self.path / column}: is written while it is read; wait for the writer, then run again")

    def column(self, name: str) -> Any:
        """A small column: list of str for ``utf8``, else an array. Raises as ``rows``."""
        described = schema.TABLES[self.name].column(name)
        with self._reading(name):
            if described is not None and described.dtype == "utf8":
                ragged = Bytes(self._array(f"{name}.bytes"), self._array(f"{name}.offsets"))
                return [row.decode("utf-8", "surrogatepass") for row in ragged]
            return self._array(name)

    def _array(self, key: str) -> NDArray[Any]:
        array = np.asarray(self.group[key][...])  # type: ignore[index]
        check_digest(self.path, key, array_digest(array), self.attrs["columns"], self.remedy)
        return array


class ReadAhead:
    """Many small ranges of vector columns, more or less in order: read by blocks, of which each column's last is kept."""

    def __init__(self, vectors: Vectors, block: int = SHARD_ROWS // 8) -> None:
        self._vectors, self._block = vectors, block
        self._kept: dict[str, tuple[int, NDArray[np.float32]]] = {}

    def rows(self, column: str, start: int, stop: int) -> NDArray[np.float32]:
        """As `Vectors.rows`."""
        first, values = self._kept.get(column, (-1, np.empty((0, 0), np.float32)))
        if first < 0 or not first <= start <= stop <= first + len(values):
            first = start // self._block * self._block
            values = self._vectors.rows(column, first, max(stop, first + self._block))
            self._kept[column] = first, values
        return values[start - first : stop - first]
