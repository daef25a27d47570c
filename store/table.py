"""Tables: an HDF5 file of typed, checksummed columns, written in one go (see ``store.schema``).

Attributes of a table (canonical JSON in the dataset ``description``): ``schema`` (its name), ``version``, ``columns``
(stored array -> digest of its values, compared whenever it is read), ``digest`` (of those, so of the whole content),
``made_from`` (name -> digest of the tables it was computed from), ``config`` (the parameters of its stage) and what the
stage adds.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import h5py
import numpy as np
from numpy.typing import NDArray

from store import schema
from store.errors import StoreError, reading, repair
from store.fingerprint import array_digest, canonical, file_digest, fingerprint
from store.publish import DeferredErrors, replacing, uninterrupted
from store.ragged import Bytes
from store.ranges import check_ranges

_CHUNK = 1 << 18
_DESCRIPTION = "description"


@dataclass(frozen=True)
class Table:
    """Columns and attributes of a table in memory. ``table["name"]`` is the column."""

    path: Path
    columns: Mapping[str, Any]
    attrs: Mapping[str, Any] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Any:
        if name not in self.columns:
            raise StoreError(f"{self.path}: has no column {name!r}; it has {', '.join(sorted(self.columns))}")
        return self.columns[name]

    @property
    def digest(self) -> str:
        return str(self.attrs["digest"])


def flatten(name: str, columns: Mapping[str, Any], described: schema.Table) -> dict[str, NDArray[Any]]:
    """Check ``columns`` against the schema; return the arrays that are stored, ragged ones as two arrays."""
    missing = set(described.columns) - set(columns)
    unknown = sorted(c for c in columns if described.column(c) is None)
    if missing or unknown:
        raise StoreError(f"table {name}: missing columns {sorted(missing)}, unknown columns {unknown}")
    sizes: dict[str, tuple[int, str]] = {}
    arrays: dict[str, NDArray[Any]] = {}
    for key, value in columns.items():
        column = described.column(key)
        assert column is not None
        if column.dtype in ("utf8", "bytes"):
            ragged = (
                value
                if isinstance(value, Bytes)
                else Bytes.of(v.encode("utf-8", "surrogatepass") if isinstance(v, str) else v for v in value)
            )
            shape: tuple[int, ...] = (len(ragged),)
            arrays[f"{key}.bytes"], arrays[f"{key}.offsets"] = ragged.flat, ragged.offsets
        else:
            array = np.asarray(value)
            shape = array.shape
            if array.dtype != np.dtype(column.dtype):
                raise StoreError(f"table {name}, column {key}: expected {column.dtype}, got {array.dtype}")
            arrays[key] = array
            if column.dims[0].endswith("+1") and len(array) and (array[0] or (np.diff(array) < 0).any()):
                raise StoreError(f"table {name}, column {key}: expected offsets from 0 that do not fall")
        if len(shape) != len(column.dims):
            raise StoreError(f"table {name}, column {key}: expected shape ({', '.join(column.dims)}), got {shape}")
        for symbol, size in zip(column.dims, shape, strict=True):
            known, where = sizes.setdefault(symbol, (int(symbol) if symbol.isdigit() else size, key))
            if known != size:
                raise StoreError(f"table {name}: {symbol} is {known} in column {where} and {size} in column {key}")
    for symbol, (size, where) in sizes.items():
        base = symbol.removesuffix("+1")
        if base != symbol and base in sizes and size != sizes[base][0] + 1:
            raise StoreError(f"table {name}, column {where}: expected {sizes[base][0] + 1} offsets, got {size}")
    return arrays


def write_table(
    path: Path,
    name: str,
    columns: Mapping[str, Any],
    config: Mapping[str, Any],
    made_from: Mapping[str, str],
    **attrs: Any,
) -> Table:
    """Write table ``name`` (a key of ``store.schema.TABLES``) to ``path``, completely or not at all; return it.

    Equal columns and attributes give equal bytes.
    """
    arrays = flatten(name, columns, schema.TABLES[name])
    described = {
        "schema": name,
        "version": schema.VERSION,
        **digests_of({key: array_digest(array) for key, array in arrays.items()}),
        "made_from": dict(made_from),
        "config": dict(config),
        **attrs,
    }
    with (
        replacing(path) as temporary,
        uninterrupted(),
        DeferredErrors(temporary) as plain,
        h5py.File(plain, "w", libver="v110") as file,
    ):
        for key in sorted(arrays):
            array = arrays[key]
            options = (
                {"chunks": (min(_CHUNK, array.shape[0]), *array.shape[1:]), "fletcher32": True} if array.size else {}
            )
            file.create_dataset(key, data=array, **options)
        file.create_dataset(
            _DESCRIPTION, data=np.frombuffer(canonical(described).encode(), np.uint8), fletcher32=True, chunks=True
        )
    return Table(path, dict(columns), described)


def stored_columns(path: Path, name: str) -> list[str]:
    """The names of a table's columns, none of which is read. Raises as ``read_table``."""
    with reading(path, repair(path)), h5py.File(path, "r") as file:
        return sorted({key.removesuffix(".bytes").removesuffix(".offsets") for key in file} - {_DESCRIPTION})


def read_table(path: Path, name: str, columns: Iterable[str] | None = None) -> Table:
    """Read table ``name`` from ``path``: all columns, or those given (of a family by their full name).

    ``utf8`` columns come as lists of str, ``bytes`` columns as ``store.ragged.Bytes``, the rest as arrays.

    Raises:
        StoreError: no file, another table or schema version, a damaged byte, a column of another table.
    """
    described = schema.TABLES[name]
    remedy = repair(path)
    with reading(path, remedy), h5py.File(path, "r") as file:
        attrs = check_description(
            path, name, file[_DESCRIPTION][()].tobytes() if _DESCRIPTION in file else b"{}", remedy
        )
        stored = sorted({key.removesuffix(".bytes").removesuffix(".offsets") for key in file} - {_DESCRIPTION})
        wanted = stored if columns is None else list(columns)
        absent = sorted(set(wanted) - set(stored))
        if absent:
            raise StoreError(f"{path}: has no column {', '.join(absent)}; it has {', '.join(stored)}; {remedy}")
        ragged = {key for key in wanted if f"{key}.offsets" in file}
        names = [n for key in wanted for n in ((f"{key}.bytes", f"{key}.offsets") if key in ragged else (key,))]
        arrays = _verified(path, file, names, attrs["columns"], remedy)
        read = {key: _column(arrays, key, described.column(key)) for key in wanted}
        check_ranges(path, name, read, attrs, remedy)
    return Table(path, read, attrs)


def _verified(
    path: Path, file: h5py.File, names: Sequence[str], digests: Mapping[str, str], remedy: str
) -> dict[str, NDArray[Any]]:
    """The stored arrays, each compared with its digest in another thread while the next one is read."""
    with ThreadPoolExecutor(1) as pool:
        arrays: dict[str, NDArray[Any]] = {}
        pending: dict[str, Future[str]] = {}
        for name in names:
            arrays[name] = file[name][()]
            pending[name] = pool.submit(array_digest, arrays[name])
        for name, digest in pending.items():
            check_digest(path, name, digest.result(), digests, remedy)
    return arrays


def check_digest(path: Path, name: str, actual: str, digests: Mapping[str, str], remedy: str) -> None:
    """Raise a StoreError unless the values of a stored array are those that were written."""
    if actual != digests.get(name):
        raise StoreError(
            f"{path}: {name} is damaged or from another file: expected values with digest {digests.get(name)}, found "
            f"{actual}; {remedy}"
        )


def check_description(path: Path, name: str, text: bytes, remedy: str) -> dict[str, Any]:
    """The attributes in ``text`` (JSON), checked to be those of table ``name`` in this schema version."""
    attrs: dict[str, Any] = json.loads(text)
    if attrs.get("schema") != name or attrs.get("version") != schema.VERSION:
        raise StoreError(
            f"{path}: expected table {name!r} version {schema.VERSION} of stage {schema.TABLES[name].producer}, found "
            f"{attrs.get('schema')!r} version {attrs.get('version')}; {remedy}"
        )
    if digests_of(attrs["columns"])["digest"] != attrs["digest"]:
        raise StoreError(f"{path}: its digest is not that of its columns; {remedy}")
    return attrs


def digests_of(columns: Mapping[str, str]) -> dict[str, Any]:
    """The attributes ``columns``, stored array -> digest of its values, and ``digest``, over all of them."""
    return {"columns": dict(columns), "digest": fingerprint(dict(columns))}


def content_digest(path: Path) -> str:
    """The digest of a file's content: the one that a table (.h5) holds of its columns, sha256 of any other file.

    Raises:
        StoreError: it cannot be read.
    """
    remedy = "put it back, or run the stage that makes it again"
    with reading(path, remedy):
        if path.suffix != ".h5":
            return file_digest(path)
        with h5py.File(path, "r") as file:
            text = file[_DESCRIPTION][()].tobytes()
        return str(check_description(path, json.loads(text)["schema"], text, remedy)["digest"])


def _column(arrays: Mapping[str, NDArray[Any]], key: str, column: schema.Column | None) -> Any:
    if column is None or column.dtype not in ("utf8", "bytes"):
        return arrays[key]
    ragged = Bytes(arrays[f"{key}.bytes"], arrays[f"{key}.offsets"])
    return [row.decode("utf-8", "surrogatepass") for row in ragged] if column.dtype == "utf8" else ragged


class Stored(Protocol):
    """A table or a folder of vectors."""

    @property
    def path(self) -> Path: ...

    @property
    def attrs(self) -> Mapping[str, Any]: ...


def require_same(consumer: str, *uses: tuple[Stored, str, Stored]) -> None:
    """Check that tables belong together: for each (output, name, source), ``output`` was computed from ``source``."""
    for output, name, source in uses:
        if output.attrs["made_from"].get(name) != source.attrs["digest"]:
            raise StoreError(
                f"{consumer}: {output.path} was made from another {name} than {source.path}; {repair(output.path)}"
            )


def as_rows(values: Sequence[Any], dtype: str, width: int | None = None) -> NDArray[Any]:
    """Rows as an array of ``dtype``, of shape (R,) or (R, width), even if there are none."""
    array = np.asarray(values, dtype)
    return array.reshape(len(values), *(() if width is None else (width,)))
