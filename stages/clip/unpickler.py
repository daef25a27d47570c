"""The pickle inside a weights file, read as data: tensors stay descriptions, unknown names are refused, nothing runs.

The machine is `store.unpickler`'s; attributes are set on stand-ins only.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from store.unpickler import PlainUnpickler, Refused, fill
from store.untrusted import PlainDtype, plain_names

_STORAGES = {
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
_DTYPES = ("float16", "bfloat16", "float32", "float64", "int64", "int32", "int16", "int8", "uint8", "bool")
_NUMBERS = re.compile(r"b1|[iu][1248]|f[248]")
_MOST_DIMENSIONS = 16


@dataclass(frozen=True)
class Storage:
    """A run of numbers of the file: its name there and how many it has."""

    key: str
    dtype: torch.dtype
    length: int

    @property
    def nbytes(self) -> int:
        return self.length * self.dtype.itemsize


@dataclass(frozen=True)
class StoredTensor:
    """A tensor that has not been read: a window on a storage, in elements."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return prod(self.size) * self.storage.dtype.itemsize

    def on(self, storage: Tensor) -> Tensor:
        """This window on the numbers of its storage (1-d, of its dtype)."""
        return storage.as_strided(self.size, self.stride, self.offset)


@dataclass
class StoredArray:
    """A numpy array whose bytes stand in the pickle."""

    shape: tuple[int, ...] = ()
    dtype: str = ""
    fortran: bool = False
    raw: bytes = b""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, raw = state
        self._fill(shape, dtype, bool(fortran), raw.encode("latin1") if isinstance(raw, str) else raw)

    def _fill(self, shape: Any, dtype: PlainDtype, fortran: bool, raw: Any) -> None:
        if not isinstance(raw, bytes) or not isinstance(dtype, PlainDtype):
            raise Refused("an array of an unknown form")
        if not _NUMBERS.fullmatch(dtype.code):
            raise Refused(f"an array of {dtype.code}, no numbers")
        self.shape, self.dtype, self.fortran, self.raw = _sizes(shape), dtype.resolved().str, fortran, raw

    def tensor(self) -> Tensor:
        """Its numbers, in this machine's byte order."""
        flat = np.frombuffer(self.raw, np.dtype(self.dtype))
        array = flat.reshape(self.shape, order="F" if self.fortran else "C")
        return torch.from_numpy(np.array(array, array.dtype.newbyteorder("="), order="C"))


class Module:
    """Stand-in for an object of a class that is not looked up: holds its attributes, knows nothing else."""


class Reader(PlainUnpickler):
    """Reads one pickle. What it may name is in `_names`; ``__torch__`` names are those of TorchScript's modules."""

    def __init__(self, stream: Any, encoding: str = "latin1") -> None:
        super().__init__(stream, encoding=encoding)
        self.admitted = {**plain_names(encoding), **_names()}
        self.storages: dict[str, Storage] = {}
        """Every storage that was named, by its key."""

    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] == "__torch__" or (module, name) == ("argparse", "Namespace"):
            return Module
        return super().find_class(module, name)

    def persistent_load(self, pid: Any) -> Storage:
        kind, dtype, key, _, length, *view = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype) or any(view) or not _is_count(length):
            raise Refused("a storage of an unknown form")
        if type(key) not in (str, int):
            raise Refused("a storage without a name")
        return self.storages.setdefault(str(key), Storage(str(key), dtype, length))

    def load_newobj(self) -> None:
        self.stack.pop()  # arguments
        if self.stack.pop() is not Module:
            raise Refused("an object of a class that it may not have")
        self.append(Module())

    def load_reduce(self) -> None:
        if self.stack[-2] is Module:
            self.stack[-2:] = [Module()]
        else:
            super().load_reduce()

    def build(self, built: Any, state: Any) -> None:
        if isinstance(built, StoredArray | PlainDtype):
            built.__setstate__(state)
        elif isinstance(built, Module) and isinstance(state, dict):
            vars(built).update({str(name): value for name, value in state.items()})
        elif not isinstance(built, dict):  # attributes of a dict (a state_dict's _metadata) say nothing about weights
            raise Refused("attributes for what has none")

    dispatch: ClassVar[dict[int, Any]] = dict(PlainUnpickler.dispatch)
    for _code in (pickle.EMPTY_SET, pickle.ADDITEMS, pickle.FROZENSET):
        del dispatch[_code[0]]
    dispatch[pickle.BINPERSID[0]] = pickle._Unpickler.dispatch[pickle.BINPERSID[0]]
    dispatch[pickle.NEWOBJ[0]] = load_newobj
    dispatch[pickle.REDUCE[0]] = load_reduce


def _names() -> dict[tuple[str, str], Any]:
    """(module, name) -> what stands for it: storages, tensors, arrays and plain containers."""
    return {
        **{("torch", name): dtype for name, dtype in _STORAGES.items()},
        **{("torch", name): getattr(torch, name) for name in _DTYPES},
        ("torch.storage", "UntypedStorage"): torch.uint8,
        ("torch", "Size"): _sizes,
        ("torch", "device"): _as_text,
        ("torch", "Tensor"): "torch.Tensor",
        ("torch.nn.parameter", "Parameter"): "torch.nn.Parameter",
        ("torch._utils", "_rebuild_tensor"): _tensor,
        ("torch._utils", "_rebuild_tensor_v2"): _tensor,
        ("torch._utils", "_rebuild_parameter"): _first,
        ("torch._utils", "_rebuild_parameter_with_state"): _first,
        ("torch._tensor", "_rebuild_from_type_v2"): _of_type,
        **{("torch.jit._pickle", f"build_{kind}list"): _first for kind in ("int", "tensor", "double", "bool")},
        ("torch.jit._pickle", "restore_type_tag"): _first,
        ("collections", "OrderedDict"): _dict,
        ("collections", "Counter"): _dict,
        ("collections", "defaultdict"): _empty_dict,
        **{(module, name): name for module in ("builtins", "__builtin__") for name in ("dict", "list", "int", "float")},
        ("numpy", "ndarray"): "numpy.ndarray",
        **{(f"numpy.{core}.multiarray", "_reconstruct"): _new_array for core in ("core", "_core")},
        **{(f"numpy.{core}.numeric", "_frombuffer"): _array for core in ("core", "_core")},
    }


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: object) -> StoredTensor:
    """A window that lies in its storage and shows no number of it twice: what a file says is as large as the file."""
    size, stride = _sizes(size), _sizes(stride)
    if not isinstance(storage, Storage) or not _is_count(offset) or len(size) != len(stride):
        raise Refused("a tensor of an unknown form")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) if 0 not in size else -1
    if last >= storage.length or prod(size) > storage.length:
        raise Refused(f"a tensor of {size} by {stride} on a storage of {storage.length} numbers")
    return StoredTensor(storage, offset, size, stride)


def _of_type(function: Any, kind: object, arguments: Any, state: object) -> Any:
    if function not in (_tensor, _first):
        raise Refused("a tensor of an unknown form")
    return function(*arguments)


def _new_array(*_: object) -> StoredArray:
    return StoredArray()


def _array(raw: Any, dtype: PlainDtype, shape: Any, order: object) -> StoredArray:
    built = StoredArray()
    built._fill(shape, dtype, order == "F", raw)
    return built


def _dict(items: Any = (), *_: object) -> dict[Any, Any]:
    built: dict[Any, Any] = {}
    pairs = list(items.items()) if isinstance(items, Mapping) else items
    fill(built, [value for pair in pairs for value in pair])
    return built


def _empty_dict(*_: object) -> dict[Any, Any]:
    return {}


def _first(value: Any, *_: object) -> Any:
    return value


def _as_text(*parts: object) -> str:
    return ":".join(str(part) for part in parts if isinstance(part, str | int))


def _sizes(value: Any) -> tuple[int, ...]:
    if not isinstance(value, tuple | list) or len(value) > _MOST_DIMENSIONS or not all(map(_is_count, value)):
        raise Refused("a shape of an unknown form")
    return tuple(value)


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**63
