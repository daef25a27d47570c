"""Read the tensors of a TorchScript archive (the form of OpenAI's CLIP downloads) as data.

`torch.jit.load` would compile and may run the code stored in the archive; here nothing of it runs: the code is not
looked at, and the pickle is read by an unpickler that knows tensors, storages and empty stand-ins for modules, and
refuses every other name.
"""

from __future__ import annotations

import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch import Tensor

_DTYPES = {
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "BoolStorage": torch.bool,
}


def is_archive(path: Path) -> bool:
    """Whether ``path`` is a TorchScript archive: a zip with the record that only those have."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(PurePosixPath(name).name == "constants.pkl" for name in archive.namelist())


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Every tensor of the archive's module tree by its dotted name, and the integers of its root as 0-d tensors.

    Parameters and buffers are among them; so are tensors that a `state_dict` would leave out.

    Raises:
        pickle.UnpicklingError: a name that no such archive needs. A damaged archive raises the errors of zip and pickle.
    """
    with zipfile.ZipFile(path) as archive:
        record = next((name for name in archive.namelist() if PurePosixPath(name).name == "data.pkl"), "data.pkl")
        with archive.open(record) as stream:
            root = _Reader(stream, archive, str(PurePosixPath(record).parent / "data")).load()
    if not isinstance(root, _Module):
        raise pickle.UnpicklingError(f"expected a module at its root, got {type(root).__name__}")
    scalars = {name: torch.tensor(value) for name, value in vars(root).items() if type(value) is int}
    return scalars | dict(_walk(root, ""))


def _walk(module: _Module, prefix: str) -> list[tuple[str, Tensor]]:
    tensors = []
    for name, value in vars(module).items():
        if isinstance(value, Tensor):
            tensors.append((prefix + name, value))
        elif isinstance(value, _Module):
            tensors.extend(_walk(value, f"{prefix}{name}."))
    return tensors


class _Module:
    """Stand-in for a module class of the archive: holds its attributes, knows nothing else."""


class _Reader(pickle.Unpickler):
    def __init__(self, stream: Any, archive: zipfile.ZipFile, folder: str) -> None:
        super().__init__(stream)
        self._archive = archive
        self._folder = folder

    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] == "__torch__":
            return _Module
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        raise pickle.UnpicklingError(f"refused the name {module}.{name}")

    def persistent_load(self, pid: Any) -> Tensor:
        _, dtype, key, _, _ = pid
        return torch.frombuffer(bytearray(self._archive.read(f"{self._folder}/{key}")), dtype=dtype)


def _rebuild(storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: object) -> Tensor:
    return storage.as_strided(size, stride, offset)
