"""Digests: of values, of files, of arrays and of the code that computes a result.

A configuration's key covers all that changes values (parameters, weights, code, schema version) and nothing that does
not (batch size, workers, device count, paths).
"""

from __future__ import annotations

import ast
import hashlib
import json
import sys
from collections.abc import Iterable
from functools import cache, lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from store.computing import computing_digest
from store.errors import CodeError
from store.regular import open_regular

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("pipeline", "stages", "store")
BOOKKEEPING = frozenset(
    {"stages.contract"}
    | {
        f"store.{name}"
        for name in ("computing", "errors", "fingerprint", "loader", "locks", "publish", "schema", "seal")
    }
    | {f"store.{name}" for name in ("registry", "regular", "table", "units", "vectors", "work")}
)
"""Modules that compute no value: how things lie on disk is covered by ``store.schema.VERSION``."""


def canonical(value: Any) -> str:
    """Canonical JSON: sorted keys, no spaces, no NaN; equal values give equal text.

    >>> canonical({"b": [1, 2.5], "a": "é"})
    '{"a":"\\\\u00e9","b":[1,2.5]}'
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=True)


def fingerprint(value: Any) -> str:
    """sha256 hex digest of a JSON-able value."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def file_digest(path: Path, algorithm: str = "sha256") -> str:
    """Hex digest of a plain file's contents. OSError: it cannot be read, or is a pipe or device, which would not end."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def file_identity(path: Path) -> tuple[int, ...]:
    """Numbers that change when a file is replaced, moved or written: a cheap test for "still the same"; () without a file."""
    try:
        stat = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return ()
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def array_digest(array: NDArray[Any]) -> str:
    """sha256 hex digest of an array: dtype, shape and values."""
    array = np.ascontiguousarray(array)
    digest = hashlib.sha256(canonical([array.dtype.str, list(array.shape)]).encode())
    digest.update(array.data if array.size else b"")
    return digest.hexdigest()


def module_path(module: str) -> Path | None:
    """The source file of a module of this project, or None if it is not one."""
    if module.partition(".")[0] not in PACKAGES:
        return None
    base = ROOT.joinpath(*module.split("."))
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file():
            return path
    return None


def imported_names(file: Path) -> Iterable[str]:
    """What a Python file imports, in functions too: modules, and for ``from a import b`` also ``a.b``."""
    return _imports(file.read_bytes())


@lru_cache(maxsize=1024)
def _imports(source: bytes) -> tuple[str, ...]:
    names: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names += (node.module, *(f"{node.module}.{alias.name}" for alias in node.names))
    return tuple(names)


@cache
def import_closure(module: str) -> tuple[Path, ...]:
    """Every source file of this project that ``module`` imports, directly or not, itself included; sorted.

    Imports inside functions count; packages' ``__init__`` files count when they hold code. () for a foreign module.
    """
    return tuple(sorted(source_files(module).values())) if module_path(module) else ()


@cache
def code_digest(*modules: str) -> str:
    """sha256 hex digest of what ``modules`` compute, with all that they import.

    Messages and comments do not count (see ``store.computing``): a better one must not cost hours on a GPU. Nor do the
    modules of ``BOOKKEEPING``, and what only they import.

    Args:
        modules: names of modules of this project, or of loaded ones from elsewhere.

    Raises:
        CodeError: there is no source file of a module.
    """
    files = source_files(*modules, without=BOOKKEEPING)
    digests = {name: computing_digest(path.read_bytes()) for name, path in files.items()}
    nothing = computing_digest(b"")  # a package with nothing but comments
    return fingerprint({name: digest for name, digest in digests.items() if digest != nothing})


def source_files(*modules: str, without: Iterable[str] = ()) -> dict[str, Path]:
    """Module name -> source file of ``modules`` and all that they import of this project.

    Args:
        without: modules that are left out, with what only they import.

    Raises:
        CodeError: there is no source file of one of ``modules``.
    """
    files: dict[str, Path] = {}
    waiting = list(modules)
    skipped = set(without)
    while waiting:
        name = waiting.pop()
        path = module_path(name) or (loaded_file(name) if name in modules else None)
        if path is None and name in modules:
            raise CodeError(f"module {name}: expected one of {', '.join(PACKAGES)} or a loaded one, has no source file")
        if path is None or name in files or name in skipped:
            continue
        files[name] = path
        waiting += [name.rpartition(".")[0], *imported_names(path)]
    return {name: path for name, path in sorted(files.items()) if path.read_bytes().strip()}


def loaded_file(module: str) -> Path | None:
    """The source file of a module that this process has loaded from elsewhere."""
    file = getattr(sys.modules.get(module), "__file__", None)
    return Path(file) if file and file.endswith(".py") else None


def library_versions(*names: str) -> dict[str, str]:
    """Version of each installed distribution (``torch``, ``open_clip_torch``): part of the key of what they compute.

    Raises:
        CodeError: one is not installed.
    """
    try:
        return {name: metadata.version(name) for name in sorted(names)}
    except metadata.PackageNotFoundError as error:
        raise CodeError(
            f"expected the library {error.name}, it is not installed; run: pip install {error.name}"
        ) from error
