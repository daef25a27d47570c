"""The containers of pickled weights: PyTorch's zip and its older form, TorchScript archives, detectron2's pickles.

`open_checkpoint` gives what is in one with its tensors as descriptions; `tensors_of` then reads the numbers of those that
are wanted, so that a training checkpoint costs its weights only, not its optimiser's state.
"""

from __future__ import annotations

import io
import mmap
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stages.clip.forms import Form, is_legacy
from stages.clip.unpickler import Module, Reader, Storage, StoredArray, StoredTensor
from store.unpickler import Refused

_PICKLE_LIMIT = 1 << 26
"""Bytes of the pickle in a zip, without the numbers: those of the largest models have a few hundred thousand."""
_BLOCK = 1 << 24
_MOST_TENSORS = 200_000
_SHARED = 4
"""How many times the bytes of a file its tensors may show: some weights are stored once under several names."""


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds: ``content`` with `StoredTensor` and `StoredArray` in it, and how a storage of it is read."""

    content: Any
    read: Callable[[Storage], Tensor]


def open_checkpoint(path: Path, form: Form) -> Checkpoint:
    """What a pickled file holds.

    Raises:
        Refused: it names what it may not, or is damaged. Anything else that readers of zip and pickle raise: it is damaged.
    """
    if form == "pickle":
        return _open_pickle(path)
    record, numbers = _records(path)
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo(record)
        if info.file_size > _PICKLE_LIMIT or info.compress_type != zipfile.ZIP_STORED:
            raise Refused(f"a pickle of {info.file_size:,} bytes beside the numbers, or a compressed one")
        content = Reader(io.BytesIO(archive.read(record))).load()
    if form == "torchscript":
        if not isinstance(content, Module):
            raise Refused(f"expected a module at its root, got {type(content).__name__}")
        content = _module_tensors(content)
    return Checkpoint(content, numbers)


def tensors_of(entries: Mapping[str, Any], checkpoint: Checkpoint, size: int) -> dict[str, Any]:
    """``entries`` of a checkpoint with their tensors read. ``size``: bytes of the file, which bound what it may unfold to."""
    stored = [value for value in entries.values() if isinstance(value, StoredTensor)]
    if sum(value.nbytes for value in stored) > _SHARED * size:
        raise Refused(f"tensors of more than {_SHARED} times the bytes of the file")
    if sum(storage.nbytes for storage in {value.storage for value in stored}) > size:
        raise Refused("more numbers than bytes in the file")
    storages: dict[Storage, Tensor] = {}
    read: dict[str, Any] = {}
    for name, value in entries.items():
        if isinstance(value, StoredTensor):
            if value.storage not in storages:
                storages[value.storage] = checkpoint.read(value.storage)
            value = value.on(storages[value.storage])
        read[name] = value.tensor() if isinstance(value, StoredArray) else value
    return read


def _records(path: Path) -> tuple[str, Callable[[Storage], Tensor]]:
    """The name of the pickle in a zip of PyTorch, and what reads the storages beside it."""
    with zipfile.ZipFile(path) as archive:
        record = next(name for name in archive.namelist() if PurePosixPath(name).name == "data.pkl")
        folder = PurePosixPath(record).parent
        order = str(folder / "byteorder")
        if order in archive.namelist() and archive.open(order).read(8) != b"little":
            raise Refused("its numbers are in the byte order of another kind of machine")

    def read(storage: Storage) -> Tensor:
        with zipfile.ZipFile(path) as archive:
            info = archive.getinfo(str(folder / "data" / storage.key))
            if info.compress_type != zipfile.ZIP_STORED:
                raise Refused("its numbers are compressed, as PyTorch never does")
            if info.file_size != storage.nbytes:
                raise Refused(f"record {storage.key!r} has another size than its tensors")
            numbers = np.empty(info.file_size, np.uint8)
            with archive.open(info) as stream:
                for start in range(0, len(numbers), _BLOCK):
                    block = stream.read(min(_BLOCK, len(numbers) - start))
                    numbers[start : start + _BLOCK] = np.frombuffer(block, np.uint8)
        return torch.from_numpy(numbers).view(storage.dtype)

    return record, read


def _module_tensors(root: Module) -> dict[str, Any]:
    """Every tensor of a tree of modules by its dotted name, and the integers of its root as they are."""
    tensors: dict[str, Any] = {name: value for name, value in vars(root).items() if type(value) is int}
    waiting: list[tuple[str, Module]] = [("", root)]
    entries = 0
    while waiting:
        prefix, module = waiting.pop()
        for name, value in vars(module).items():
            entries += 1
            if entries > _MOST_TENSORS:
                raise Refused(f"more than {_MOST_TENSORS} entries in its modules")
            if isinstance(value, StoredTensor):
                tensors[prefix + name] = value
            elif isinstance(value, Module):
                waiting.append((f"{prefix}{name}.", value))
    return tensors


def _open_pickle(path: Path) -> Checkpoint:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if not is_legacy(data[:16]):
            return Checkpoint(Reader(data).load(), _no_storages)
        _, version, system = (Reader(data).load() for _ in range(3))
        reader = Reader(data)
        content, keys = reader.load(), Reader(data).load()
        if version != 1001 or not isinstance(system, dict) or not system.get("little_endian", True):
            raise Refused("its numbers are in the byte order of another kind of machine, or of an unknown version")
        return Checkpoint(content, _legacy_storages(path, keys, data.tell(), reader.storages))


def _no_storages(storage: Storage) -> Tensor:
    raise Refused("tensors in a plain pickle")


def _legacy_storages(path: Path, keys: Any, start: int, sizes: Mapping[str, Storage]) -> Callable[[Storage], Tensor]:
    """What reads the storages that stand one after the other behind the pickles, each after its length."""
    places: dict[str, int] = {}
    for key in keys:
        places[key] = start + 8
        start += 8 + sizes[key].nbytes
    if start > path.stat().st_size:
        raise Refused(f"it is cut off: {path.stat().st_size:,} of {start:,} bytes")

    def read(storage: Storage) -> Tensor:
        with path.open("rb") as file:
            file.seek(places[storage.key] - 8)
            length = int.from_bytes(file.read(8), "little")
            if length != storage.length:
                raise Refused(f"storage {storage.key!r} has {length} numbers instead of {storage.length}")
            numbers = np.fromfile(file, np.uint8, storage.nbytes)
        return torch.from_numpy(numbers).view(storage.dtype)

    return read
