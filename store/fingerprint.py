"""Digests: of values, of files, of arrays and of the code that computes a result.

A configuration's key covers all that changes values (parameters, weights, code, schema version) and nothing that does
not (batch size, workers, device count, paths).
"""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("pipeline", "stages", "store")


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
    """Hex digest of a file's contents."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def arrays_digest(arrays: Mapping[str, NDArray[Any]]) -> str:
    """sha256 hex digest of named arrays: names, dtypes, shapes and values."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(canonical([name, array.dtype.str, list(array.shape)]).encode())
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
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@cache
def import_closure(module: str) -> tuple[Path, ...]:
    """Every source file of this project that ``module`` imports, directly or not, itself included; sorted.

    Imports inside functions count; packages' ``__init__`` files count when they hold code.
    """
    found: set[Path] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        path = module_path(name)
        if path is None or path in found:
            continue
        found.add(path)
        waiting.extend(name.rpartition(".")[:1])
        waiting.extend(imported_names(path))
    return tuple(sorted(path for path in found if path.read_bytes().strip()))


class _WithoutDocstrings(ast.NodeTransformer):
    """Drops every string that stands alone: those of modules, classes, functions, and of fields and constants."""

    def visit_Expr(self, node: ast.Expr) -> ast.Expr | None:
        return None if isinstance(node.value, ast.Constant) and isinstance(node.value.value, str) else node


@cache
def code_digest(module: str) -> str:
    """sha256 hex digest of what ``module`` and its closure compute.

    Comments, docstrings and layout do not count: a better comment must not cost hours of a GPU. Nor does the code of
    ``store``: how things lie on disk is covered by ``store.schema.VERSION``.
    """
    digest = hashlib.sha256()
    for path in import_closure(module):
        if path.is_relative_to(ROOT / "store"):
            continue
        digest.update(str(path.relative_to(ROOT)).encode())
        digest.update(ast.dump(_WithoutDocstrings().visit(ast.parse(path.read_bytes()))).encode())
    return digest.hexdigest()
