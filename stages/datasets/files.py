"""Finding and opening the files of a data set below the folder of all annotations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from store.errors import DataError, ParameterError, nearest, reason
from store.regular import open_regular

REMEDY = "docs/data.md says how to get the data (RefShapes: make demo writes it); or correct the path"


def data_folder(root: Path, name: str, pattern: str) -> Path:
    """The folder of data set ``name`` below ``root``; other folders count as data sets if they hold a ``pattern``.

    Raises:
        DataError: there is no ``root``.
        ParameterError: the data set does not exist; with those that do.
    """
    if not root.is_dir():
        raise DataError(f"{root}: expected the folder of the annotations of all data sets, found none; {REMEDY}")
    folders = {folder.name: folder for folder in root.iterdir() if folder.is_dir()}
    if name not in folders:
        with_data = [n for n, folder in folders.items() if any(folder.glob(pattern))]
        raise ParameterError(f"data set {name!r} does not exist in {root}; {nearest(name, with_data)}")
    return folders[name]


def read_json(path: Path, expected: str) -> Any:
    """The value in a JSON file; ``expected`` says what it should be, for the message.

    Raises:
        DataError: no such file, or no JSON.
    """
    try:
        with open_regular(path) as file:
            return json.load(file)
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(
            f"{path}: expected {expected}, cannot read it ({reason(error)}); fetch the file again"
        ) from error
