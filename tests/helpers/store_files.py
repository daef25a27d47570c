"""Small outputs of the store to write and read, and what is left of one after a byte was flipped."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from store.errors import StoreError
from store.table import Table, write_table
from store.vectors import Vectors, write_vectors


def proposals(rows: int = 3) -> dict[str, Any]:
    """Columns of a small, valid proposals table of two images."""
    return {
        "image_offsets": np.array([0, max(rows - 1, 0), rows]),
        "mask": [bytes([65 + i % 9]) * (i % 40) for i in range(rows)],
        "box": np.arange(4 * rows, dtype=np.float32).reshape(rows, 4),
        "score": np.linspace(1, 0, rows, dtype=np.float32),
        "area": np.arange(rows) * 10,
        "status": ["", "nichts gefunden – 無"],
        "state": ["", "no proposals"],
    }


def write(path: Path, columns: dict[str, Any] | None = None, **attrs: Any) -> Table:
    return write_table(path, "proposals", columns or proposals(), {"x": 1}, {"index": "0f"}, **attrs)


def content(table: Table) -> dict[str, Any]:
    return {
        name: [*map(np.ndarray.tolist, [v])] if isinstance(v, np.ndarray) else list(v)
        for name, v in table.columns.items()
    }


def features(rows: int, width: int = 3, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(rows, width)).astype(np.float32)


def write_features(
    path: Path, rows: int = 15, sizes: tuple[int, ...] = (), **attrs: Any
) -> dict[str, NDArray[np.float32]]:
    """A mask_features folder; ``sizes`` are the lengths of the streamed blocks, the rest comes in one."""
    stored = {
        name: features(rows, seed=seed) for seed, name in enumerate(("view.local", "view.global.k1", "view.global.k12"))
    }
    cuts = np.cumsum(sizes)
    blocks = {name: iter(np.split(value, cuts[cuts <= rows])) for name, value in stored.items()}
    status = ["", "leer é"] * rows
    write_vectors(
        path, "mask_features", rows, 3, blocks, {"status": status[:rows]}, {"k": 1}, {"proposals": "ab"}, **attrs
    )
    return stored


def all_of(path: Path) -> Any:
    opened = Vectors(path, "mask_features")
    columns = {name: opened.rows(name) for name in [f"view.{label}" for label in opened.members("view")]}
    return {name: (c.shape, c.tobytes()) for name, c in columns.items()}, opened.column("status"), opened.attrs


def files_of(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def survivors(path: Path, step: int, output: Path, read: Callable[[], Any]) -> list[int]:
    """Which of every ``step``-th byte of ``path``, flipped, changes the content read instead of raising a StoreError
    that names the ``output``."""
    whole, expected = path.read_bytes(), repr(read())
    silent: list[int] = []
    for at in range(0, len(whole), step):
        damaged = bytearray(whole)
        damaged[at] ^= 1 << at % 8
        path.write_bytes(damaged)
        try:
            found = repr(read()) == expected  # a byte that no reader looks at may change
        except StoreError as error:
            found = str(output) in str(error)
        silent += [] if found else [at]
    path.write_bytes(whole)
    assert repr(read()) == expected
    return silent
