"""Reading REFER's ``refs(...).p`` without executing what a pickle may hold.

Only plain containers, strings, bytes, numbers, bool, None and numpy scalars are admitted; numpy scalars arrive as plain
Python values. Whatever a pickle may name is replaced by an object of ours without attributes, so that there is nothing
for a BUILD instruction to change.
"""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import numpy as np

from store.errors import DataError, plain, reason
from store.regular import read_regular
from store.unpickler import PlainUnpickler, Refused, hashable

_PLAIN = re.compile(r"b1|[iu][1248]|f[248]|[SU]\d+")
"""numpy types of plain numbers, bool and strings."""
_EXPECTED = "expected a pickle with a list of refs"
_REMEDY = "fetch the file again from a source you trust"


def load_refs(path: Path) -> list[Any]:
    """The rows of a refs file, written by Python 2 or 3; usually dicts, but each row is the caller's to check.

    Byte strings of Python 2 are read as UTF-8, or all of them as Latin-1 in a file where one is no UTF-8.

    Raises:
        DataError: no such file, empty, truncated, no pickle, no list, or it names anything but plain values.
    """
    try:
        data = read_regular(path)
    except OSError as error:
        raise DataError(f"{path}: {_EXPECTED}, cannot read it ({reason(error)}); {_REMEDY}") from error
    if not data:
        raise DataError(f"{path}: {_EXPECTED}, got an empty file (0 bytes); {_REMEDY}")
    try:
        try:
            rows = _Reader(data, "utf-8").load()
        except UnicodeDecodeError:
            rows = _Reader(data, "latin1").load()
    except Refused as error:
        raise DataError(f"{path}: {plain(str(error))}; {_REMEDY}") from error
    except Exception as error:  # damaged bytes can fail in any instruction, with any error
        raise DataError(f"{path}: truncated or not a pickle ({reason(error)}); {_REMEDY}") from error
    if not isinstance(rows, list):
        raise DataError(f"{path}: expected a list of refs, got {type(rows).__name__}; {_REMEDY}")
    return rows


class _Reader(PlainUnpickler):
    def __init__(self, data: bytes, encoding: str) -> None:
        super().__init__(io.BytesIO(data), encoding=encoding)
        self.admitted = {
            **plain_names(encoding),
            ("builtins", "set"): _Collect(set),
            ("builtins", "frozenset"): _Collect(frozenset),
            ("__builtin__", "set"): _Collect(set),
            ("__builtin__", "frozenset"): _Collect(frozenset),
        }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.admitted:
            raise Refused(
                "expected only plain containers, strings, numbers and numpy scalars, but the pickle asks for "
                f"{f'{module}.{name}'[:100]}: refused, loading it could run code"
            )
        return super().find_class(module, name)

    def build(self, built: Any, state: Any) -> None:
        if not isinstance(built, PlainDtype):
            raise Refused("attributes for what has none")
        built.__setstate__(state)


def plain_names(encoding: str) -> dict[tuple[str, str], Any]:
    """(module, name) -> what stands for it, of what a pickle of bytes, numpy scalars and numpy types may name.

    Args:
        encoding: how byte strings of Python 2 are read.
    """
    return {
        ("builtins", "bytes"): _NoBytes(),
        ("__builtin__", "bytes"): _NoBytes(),
        ("_codecs", "encode"): _Encode(),
        ("numpy", "dtype"): _MakeDtype(),
        ("numpy.core.multiarray", "scalar"): _MakeScalar(encoding),
        ("numpy._core.multiarray", "scalar"): _MakeScalar(encoding),
    }


class _NoBytes:
    """How Python 3 writes b"" at protocols 0 to 2."""

    __slots__ = ()

    def __call__(self) -> bytes:
        return b""


class _Collect:
    """How Python writes a set at protocols 0 to 3: a call of ``set`` with a list."""

    __slots__ = ("_kind",)

    def __init__(self, kind: type[set[Any]] | type[frozenset[Any]]) -> None:
        self._kind = kind

    def __call__(self, members: Any = ()) -> set[Any] | frozenset[Any]:
        if not isinstance(members, list | tuple):
            raise Refused("members of a set that are no list")
        return self._kind(map(hashable, members))


class _Encode:
    """How Python 3 writes bytes at protocols 0 to 2."""

    __slots__ = ()

    def __call__(self, text: str, encoding: str) -> bytes:
        return text.encode("latin1")


class PlainDtype:
    """Takes the place of ``numpy.dtype``: a type code and, from the pickled state, a byte order."""

    __slots__ = ("code", "order")

    def __init__(self, code: str) -> None:
        self.code, self.order = code, "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = state[1]

    def resolved(self) -> np.dtype[Any]:
        """The numpy type. TypeError: it is not that of plain numbers, bool or strings."""
        if not _PLAIN.fullmatch(self.code):
            raise TypeError(f"numpy type {self.code} is no plain number or string")
        return np.dtype(self.order.strip("|") + self.code)


class _MakeDtype:
    __slots__ = ()

    def __call__(self, code: str, align: object = False, copy: object = False) -> PlainDtype:
        return PlainDtype(code)


class _MakeScalar:
    """Takes the place of numpy's scalar constructor; gives the plain Python value."""

    __slots__ = ("_encoding",)

    def __init__(self, encoding: str) -> None:
        self._encoding = encoding

    def __setstate__(self, state: object) -> None:
        raise TypeError("a constructor has no state")

    def __call__(self, dtype: PlainDtype, raw: bytes | str) -> Any:
        kind = dtype.resolved()
        data = raw.encode(self._encoding) if isinstance(raw, str) else raw  # Python 2 wrote the bytes as a string
        (value,) = np.frombuffer(data, kind)
        return value.item()
