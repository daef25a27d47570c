"""Reading an image as every stage does: RGB pixels of exactly the file that was indexed."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import TYPE_CHECKING

from store.errors import DataError, PassingError, again

if TYPE_CHECKING:
    from PIL import Image

_REMEDY = f"put the right file there, then {again('index')}"


def open_image(root: Path, name: str) -> tuple[str, tuple[int, int]]:
    """sha256 hex digest and (height, width) of an image file, from its bytes and header alone.

    Raises:
        DataError: no such file, an empty one, or one that is no image.
    """
    data = _bytes(root, name)
    with _decoding(root / name, data) as image:
        return hashlib.sha256(data).hexdigest(), (image.height, image.width)


def read_image(root: Path, name: str, digest: str) -> Image.Image:
    """The indexed image as PIL RGB (H x W), decoded whole.

    Raises:
        PassingError: the file is missing, or not the one whose digest was indexed.
        DataError: exactly the indexed bytes cannot be decoded: the file is truncated or damaged.
    """
    try:
        data = _bytes(root, name)
    except DataError as error:
        raise PassingError(str(error)) from error
    if hashlib.sha256(data).hexdigest() != digest:
        raise PassingError(
            f"{root / name}: the file changed since it was indexed; put the old one back, or {again('index')}"
        )
    return _rgb(root / name, data)


def load_image(path: Path) -> Image.Image:
    """Any image file as PIL RGB, decoded whole.

    Raises:
        DataError: no such file, an empty one, a truncated one, or one that is no image.
    """
    return _rgb(path, _bytes(path.parent, path.name))


def _rgb(path: Path, data: bytes) -> Image.Image:
    with _decoding(path, data) as image:
        try:
            return image.convert("RGB")
        except (OSError, SyntaxError, ValueError) as error:
            raise DataError(f"{path}: cannot be decoded ({error}); {_REMEDY}") from error


def _bytes(root: Path, name: str) -> bytes:
    try:
        data = (root / name).read_bytes()
    except OSError as error:
        raise DataError(f"{root / name}: image file cannot be read ({error.strerror}); {_REMEDY}") from error
    if not data:
        raise DataError(f"{root / name}: image file is empty (0 bytes); {_REMEDY}")
    return data


def _decoding(path: Path, data: bytes) -> Image.Image:
    from PIL import Image, UnidentifiedImageError

    try:
        return Image.open(io.BytesIO(data))
    except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: not an image that Pillow can open ({error}); {_REMEDY}") from error
