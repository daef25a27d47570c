"""Reading an image as every stage does: RGB pixels of exactly the file that was indexed."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from store.errors import DataError


def open_image(root: Path, name: str) -> tuple[str, tuple[int, int]]:
    """sha256 hex digest and (height, width) of an image file, from its bytes and header alone.

    Raises:
        DataError: no such file, an empty one, or one that is no image.
    """
    data = _bytes(root, name)
    with _decoding(root / name, data) as image:
        return hashlib.sha256(data).hexdigest(), (image.height, image.width)


def read_image(root: Path, name: str, digest: str) -> Image.Image:
    """The image as PIL RGB (H x W), decoded whole.

    Raises:
        DataError: the file is missing, truncated, no image, or not the one whose digest was indexed.
    """
    data = _bytes(root, name)
    if hashlib.sha256(data).hexdigest() != digest:
        raise DataError(
            f"{root / name}: the file changed since it was indexed; run: dvc repro --force --single-item index"
        )
    with _decoding(root / name, data) as image:
        try:
            return image.convert("RGB")
        except (OSError, SyntaxError, ValueError) as error:
            raise DataError(f"{root / name}: cannot be decoded ({error}); fetch the file again") from error


def _bytes(root: Path, name: str) -> bytes:
    try:
        data = (root / name).read_bytes()
    except OSError as error:
        raise DataError(f"{root / name}: image file cannot be read ({error.strerror}); put it there") from error
    if not data:
        raise DataError(f"{root / name}: image file is empty (0 bytes); fetch it again")
    return data


def _decoding(path: Path, data: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data))
    except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: not an image that Pillow can open ({error}); fetch it again") from error
