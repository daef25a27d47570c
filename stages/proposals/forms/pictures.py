"""Reading a PNG of labels or of one mask, with the values that are in the file."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from store.errors import DataError
from store.images import MOST_PIXELS, opened_picture
from store.regular import open_regular

_MODES = ("1", "L", "P", "I", "I;16", "I;16B", "I;16L")


def read_values(file: Path) -> NDArray[np.int64]:
    """The values of a picture of one channel, int64 (H, W): grey of 1, 8 or 16 bits, or the indices of a palette.

    Raises:
        DataError: it cannot be read, has colours, or is too large for a mask.
    """
    from PIL import Image

    try:
        with open_regular(file) as opened, opened_picture(opened) as image:
            if image.mode not in _MODES:
                raise DataError(f"expected one channel (grey or a palette), got a picture of mode {image.mode}")
            if image.width * image.height > MOST_PIXELS:
                raise DataError(f"{image.width} x {image.height} has more than {MOST_PIXELS:,} pixels")
            return np.asarray(image).astype(np.int64)
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError) as error:
        raise DataError(f"not a picture that Pillow can read ({error})") from error
