"""Reading images: RGB pixels of exactly the file that was indexed.

Pixels are those that a viewer shows, in 8 bits: grey of 16 bits (or as many as a TIFF says) is scaled by its full range,
floats from 0 to 1 or from 0 to 255 likewise; a transparent picture lies on white; palettes, CMYK and one-bit pictures are
converted. What has no agreed range (negative, NaN, wider integers) cannot be used. The orientation of EXIF is not applied,
as in the released code, where annotations are about the pixels as stored; photographs of one's own are taken upright. An
image's digest stands for its pixels: it says where a turn belongs to them.
"""

from __future__ import annotations

import errno
import hashlib
import io
import struct
import warnings
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from store.errors import DataError, TransientError, reason, rerun
from store.regular import NotPlain, leaves, read_regular

if TYPE_CHECKING:
    from PIL import Image

MOST_PIXELS = 2**25
"""What pycocotools can hold in any mask, see ``stages.datasets.ground_truth``."""
MOST_ASPECT = 20
"""A short side is resized to a fixed length without a cap on the long one: a thinner image would fill the memory."""
MOST_BYTES = 2**30
"""Of a file: 8 times the pixels of the largest image, in 32 bits and three colours, are less."""
_REMEDY = f"put the right file there, then {rerun('index')}"
_OTHER = "name another file, or save it as an 8-bit PNG or JPEG"
_BITS, _BLACK_IS, _SIGN = 258, 262, 339
"""Tags of TIFF: bits per sample, photometric interpretation (0: white is zero), sample format (2: signed)."""


_UPRIGHT = "-upright-"
"""Between the sha256 of a file and the EXIF orientation, 2 to 8, that is applied to its pixels."""


def open_image(root: Path, name: str, upright: bool = False) -> tuple[str, tuple[int, int]]:
    """Digest of an image's pixels and its (height, width), from the file's bytes and header alone.

    Args:
        upright: apply EXIF's orientation. The digest is the sha256 of the file, and the orientation where it is applied.

    Raises:
        TransientError: the file is missing or cannot be read at present.
        DataError: an empty file, one that is no image, too thin (``MOST_ASPECT``) or too large (``MOST_PIXELS``).
    """
    data = _bytes(root / name, _REMEDY)
    require_inside(root, name)
    with _opened(root / name, data, _REMEDY) as image:
        orientation = _orientation(image) if upright else 1
        size = (image.width, image.height) if orientation >= 5 else (image.height, image.width)
        turn = f"{_UPRIGHT}{orientation}" if orientation > 1 else ""
        return hashlib.sha256(data).hexdigest() + turn, size


def read_image(root: Path, name: str, digest: str) -> Image.Image:
    """The image whose digest `open_image` gave as PIL RGB (H x W), fully decoded.

    Raises:
        TransientError: the file is missing, or not the one whose digest was indexed.
        DataError: the indexed bytes cannot be decoded: truncated, damaged, or pixels without an agreed range.
    """
    try:
        data = _bytes(root / name, _REMEDY)
    except DataError as error:
        raise TransientError(str(error)) from error
    require_inside(root, name)
    expected, _, orientation = digest.partition(_UPRIGHT)
    if hashlib.sha256(data).hexdigest() != expected:
        raise TransientError(
            f"{root / name}: the file changed since it was indexed; put the old one back, or {rerun('index')}"
        )
    return _turned(_rgb(root / name, data, _REMEDY), int(orientation or 1))


def load_image(path: Path) -> Image.Image:
    """Any image file as PIL RGB, fully decoded, its pixels as stored.

    Raises:
        DataError: no such file, an empty one, a truncated one, one that is no image, or too thin or too large.
    """
    return _rgb(path, _bytes(path, _OTHER), _OTHER)


def require_inside(root: Path, name: str) -> None:
    """Raise a DataError for an image that lies elsewhere than below its root: annotations and archives are not ours.

    Links within the root are followed, and the root may be a link itself.
    """
    try:
        outside = leaves(root, root / name)
    except (OSError, RuntimeError, ValueError) as error:  # links in a circle; a zero byte
        raise DataError(
            f"{root / name}: expected an image file, cannot find it ({reason(error)}); {_REMEDY}"
        ) from error
    if outside:
        raise DataError(
            f"{root / name}: leads out of the folder of images {root}; put the file itself there, or name the folder that "
            "holds it as `images`"
        )


def require_size(where: str, width: int, height: int) -> None:
    """Raise a DataError for an image that later stages cannot hold: the one rule, for every source and encoder.

    Args:
        where: the image, for the message.
        width, height: in pixels.
    """
    if min(width, height) < 1:
        raise DataError(f"{where}: {width} x {height} (width x height) has no pixel; name another file")
    size = f"{where}: {width} x {height}"
    if max(width, height) > MOST_ASPECT * min(width, height):
        raise DataError(f"{size} is longer than {MOST_ASPECT} times its short side; cut it")
    if width * height > MOST_PIXELS:
        raise DataError(f"{size} has more than {MOST_PIXELS:,} pixels; shrink it, and its annotations")


def opened_picture(file: IO[bytes]) -> Image.Image:
    """A picture with its header read. Pillow's warning of large ones is left out: `require_size` refuses them.

    Raises:
        What Pillow raises for what is none, and ``Image.DecompressionBombError`` for the largest.
    """
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        return Image.open(file)


def as_rgb(image: Image.Image) -> Image.Image:
    """An opened image as 8-bit RGB, as a viewer shows it (see above).

    Raises:
        ValueError: its pixels have no agreed range. OSError, SyntaxError: it cannot be decoded.
    """
    if image.mode == "F" or image.mode.startswith("I"):
        image = _grey(image)
    if image.has_transparency_data:
        from PIL import Image as images

        rgba = image.convert("RGBA")
        image = images.alpha_composite(images.new("RGBA", rgba.size, "white"), rgba)
    return image.convert("RGB")


def _grey(image: Image.Image) -> Image.Image:
    """A grey image of more than 8 bits in 8 bits."""
    from PIL import Image as images

    values = np.asarray(image).astype(np.float64)
    scaled = np.rint(values * (255 / _full_scale(image, values))).astype(np.uint8)
    if image.mode.startswith("I;16") and _tag(image, _BLACK_IS, 1) == 0:
        scaled = 255 - scaled
    return images.fromarray(scaled)


def _full_scale(image: Image.Image, values: NDArray[np.float64]) -> float:
    """The value that is white: by the file's own bit depth where it has one, otherwise by the range of the values."""
    low, high = float(values.min()), float(values.max())
    white_point = 0.0
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        white_point = 2.0 ** _tag(image, _BITS, 16) - 1
    elif image.mode == "I" and (_tag(image, _BITS, 32), _tag(image, _SIGN, 1)) == (16, 2):
        white_point = 2.0**15 - 1
    ranges = (white_point,) if white_point else (1.0, 255.0) if image.mode == "F" else (255.0, 65535.0)
    for white in ranges:
        if low >= 0 and high <= white:
            return white
    expected = " or ".join(f"0 to {white:g}" for white in ranges)
    raise ValueError(f"pixels of mode {image.mode} from {low:g} to {high:g}, expected {expected}")


def _tag(image: Image.Image, tag: int, default: int) -> int:
    """A tag of a TIFF, its first value; ``default`` for other files."""
    value = getattr(image, "tag_v2", {}).get(tag, default)
    return int(value[0] if isinstance(value, tuple) else value)


def _orientation(image: Image.Image) -> int:
    """EXIF's orientation, 1 to 8: 1, as stored, where the file has none that can be read."""
    from PIL import ExifTags

    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except (OSError, SyntaxError, ValueError, EOFError, struct.error):
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _turned(image: Image.Image, orientation: int) -> Image.Image:
    """An image as stored, upright."""
    from PIL import ExifTags, ImageOps

    if orientation == 1:
        return image
    image.getexif()[ExifTags.Base.Orientation] = orientation
    return ImageOps.exif_transpose(image)


def _rgb(path: Path, data: bytes, remedy: str) -> Image.Image:
    with _opened(path, data, remedy) as image:
        try:
            return as_rgb(image)
        except (OSError, SyntaxError, ValueError, EOFError, struct.error) as error:
            raise DataError(f"{path}: cannot be decoded ({reason(error)}); {remedy}") from error


def _bytes(path: Path, remedy: str) -> bytes:
    try:
        data = read_regular(path, MOST_BYTES)
    except (NotPlain, IsADirectoryError) as error:
        raise DataError(f"{path}: expected an image file, this is no regular file; {remedy}") from error
    except OSError as error:
        if error.errno == errno.EFBIG:
            raise DataError(f"{path}: expected an image file, {error.strerror}; {remedy}") from error
        raise TransientError(f"{path}: image file cannot be read ({error.strerror}); {remedy}") from error
    if not data:
        raise DataError(f"{path}: image file is empty (0 bytes); {remedy}")
    return data


def _opened(path: Path, data: bytes, remedy: str) -> Image.Image:
    """The image with its header read, of a size that later stages can hold."""
    from PIL import Image, UnidentifiedImageError

    try:
        image = opened_picture(io.BytesIO(data))
    except UnidentifiedImageError as error:  # its text holds the address of the buffer
        raise DataError(f"{path}: not an image that Pillow can open (unknown format); {remedy}") from error
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: not an image that Pillow can open ({reason(error)}); {remedy}") from error
    require_size(str(path), image.width, image.height)
    return image
