"""A folder of golden files (form: tests/golden/README.md): what the released code computes on rebuildable weights."""

from __future__ import annotations

import importlib.util
import json
import zipfile
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from store.errors import DataError
from store.images import load_image

SHARED = ("text.json", "text.npz", "pipeline.json", "gt_masks.npz", "freesolo_shapes.json")
SUFFIXES = (".png", ".jpg", ".jpeg")
PER_IMAGE = ("freesolo", "clip_vit_b32", "clip_rn50")
FORM = "tests/golden/README.md says what such a folder holds"


class Absent(DataError):
    """A file or an array that a comparison needs is not in the folder; it is named, the rest goes on."""


class Arrays(dict[str, NDArray[Any]]):
    """The arrays of one npz file; a missing key is an `Absent` that names file and key."""

    def __init__(self, path: Path) -> None:
        try:
            with path.open("rb") as file, np.load(file) as arrays:
                super().__init__(arrays)
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise DataError(
                f"{path}: expected an npz file of plain arrays, cannot read it ({error}); {FORM}"
            ) from error
        self.path = path

    def __missing__(self, key: str) -> NDArray[Any]:
        raise Absent(f"{key} of {self.path.name}")

    def masks(self, name: str, shape: str = "") -> NDArray[np.bool_]:
        """Bits packed as ``name``, of the shape in the array ``shape`` (default ``<name>_shape``): bool."""
        size = tuple(self[shape or f"{name}_shape"].tolist())
        count = int(np.prod(size))
        bits = np.unpackbits(self[name])
        if len(bits) < count:
            raise DataError(f"{self.path}: {name}: expected {count} bits for shape {size}, got {len(bits)}; {FORM}")
        return bits[:count].reshape(size).astype(bool)


class Folder:
    """The files of ``path``; everything is read when it is asked for.

    Raises:
        DataError: there is nothing to check, or no ``weights.py`` that rebuilds the weights.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        checked = [*SHARED[:3], *(f"{kind}_{name}.npz" for name in self.images for kind in PER_IMAGE)]
        if not any((path / name).is_file() for name in checked):
            raise DataError(f"{path}: expected golden files to check, such as text.json or freesolo_*.npz; {FORM}")

    @cached_property
    def images(self) -> list[str]:
        """Names of all images that a picture or an npz file is there for, sorted."""
        names = {file.stem for file in self.path.glob("images/*") if file.suffix in SUFFIXES}
        for kind in PER_IMAGE:
            names |= {file.stem.removeprefix(f"{kind}_") for file in self.path.glob(f"{kind}_*.npz")}
        return sorted(names)

    @cached_property
    def weights(self) -> ModuleType:
        """The folder's own ``weights.py``, run as code: ``fill``, ``fill_state_dict``, ``checksum``, ``SEEDS``."""
        file = self.path / "weights.py"
        spec = importlib.util.spec_from_file_location("golden_weights", file)
        if spec is None or spec.loader is None or not file.is_file():
            raise DataError(f"{file}: expected the code that rebuilds the synthetic weights, found none; {FORM}")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        lost = [name for name in ("fill", "fill_state_dict", "checksum", "SEEDS") if not hasattr(module, name)]
        if lost:
            raise DataError(f"{file}: expected it to define {', '.join(lost)}; {FORM}")
        return module

    def image(self, name: str) -> Image.Image:
        """``images/<name>``.png, .jpg or .jpeg as PIL RGB."""
        files = [file for suffix in SUFFIXES if (file := self.path / "images" / (name + suffix)).is_file()]
        if not files:
            raise Absent(f"images/{name}.png")
        return load_image(files[0])

    def arrays(self, name: str) -> Arrays:
        """An npz file."""
        return Arrays(self._present(name))

    def has(self, pattern: str) -> bool:
        """Whether any file's name matches."""
        return any(self.path.glob(pattern))

    def json(self, name: str) -> dict[str, Any]:
        """A JSON file that holds an object."""
        file = self._present(name)
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise DataError(f"{file}: expected JSON, cannot read it ({error}); {FORM}") from error
        if not isinstance(content, dict):
            raise DataError(f"{file}: expected an object, got {type(content).__name__}; {FORM}")
        return content

    def rows(self, name: str, key: str) -> list[dict[str, Any]]:
        """The list under ``key`` of a JSON file."""
        rows = self.json(name).get(key)
        if not isinstance(rows, list):
            raise DataError(f"{self.path / name}: expected a list under {key!r}; {FORM}")
        return rows

    def _present(self, name: str) -> Path:
        file = self.path / name
        if not file.is_file():
            raise Absent(name)
        return file
