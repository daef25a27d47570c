"""Images of every form against arrays: what a viewer shows, in 8-bit RGB."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from store.errors import DataError, TransientError
from store.images import load_image, open_image, read_image

RAMP = np.arange(65536, dtype=np.uint32).reshape(256, 256)
GREY = np.arange(256, dtype=np.uint8).reshape(16, 16)


def read(path: Path) -> np.ndarray:
    """Through the way of every stage."""
    digest, size = open_image(path.parent, path.name)
    image = read_image(path.parent, path.name, digest)
    assert image.mode == "RGB"
    assert (image.height, image.width) == size
    np.testing.assert_array_equal(np.asarray(load_image(path)), np.asarray(image))
    return np.asarray(image).astype(np.int64)


def grey(values: Any) -> np.ndarray:
    return np.repeat(np.rint(np.asarray(values, np.float64)).astype(np.int64)[..., None], 3, 2)


@pytest.mark.parametrize(
    ("form", "order"), [("png", "<u2"), ("png", ">u2"), ("tif", "<u2"), ("tif", ">u2"), ("jp2", "<u2")]
)
def test_grey_of_16_bits_is_scaled_by_its_full_range(tmp_path: Path, form: str, order: str) -> None:
    path = tmp_path / f"x.{form}"
    Image.fromarray(RAMP.astype(order)).save(path)
    np.testing.assert_array_equal(read(path), grey(RAMP / 65535 * 255))


def test_a_portable_grey_map_is_scaled_by_its_greatest_value(tmp_path: Path) -> None:
    path = tmp_path / "x.pgm"
    path.write_bytes(b"P5 5 1 1000 " + np.array([0, 250, 500, 750, 1000], ">u2").tobytes())
    np.testing.assert_allclose(read(path), grey([[0, 63.75, 127.5, 191.25, 255]]), atol=1)


def tiff(path: Path, values: np.ndarray, bits: int, **more: int) -> None:
    """A TIFF of one strip, written by hand: its tags say more than Pillow writes."""
    height, width = values.shape
    data = values.tobytes()
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: 1, 273: 8, 277: 1, 278: height, 279: len(data)}
    tags |= {int(tag.removeprefix("tag")): value for tag, value in more.items()}
    entries = b"".join(
        tag.to_bytes(2, "little") + b"\4\0" + (1).to_bytes(4, "little") + value.to_bytes(4, "little")
        for tag, value in sorted(tags.items())
    )
    directory = len(tags).to_bytes(2, "little") + entries + bytes(4)
    path.write_bytes(b"II*\0" + (8 + len(data)).to_bytes(4, "little") + data + directory)


def test_tiffs_whose_tags_say_the_range(tmp_path: Path) -> None:
    path, values = tmp_path / "x.tif", np.array([[0, 1000, 30000, 65535]], "<u2")
    tiff(path, values, 16)
    np.testing.assert_array_equal(read(path), grey(values / 65535 * 255))
    tiff(path, values, 16, tag262=0)  # white is zero
    np.testing.assert_array_equal(read(path), 255 - grey(values / 65535 * 255))
    signed = np.array([[0, 1000, 32767]], "<i2")
    tiff(path, signed, 16, tag339=2)
    np.testing.assert_array_equal(read(path), grey(signed / 32767 * 255))
    twelve = np.array([[0, 4095, 2048, 100]])
    packed = np.array([[a >> 4, (a & 15) << 4 | b >> 8, b & 255] for a, b in twelve.reshape(-1, 2)], np.uint8)
    tiff(path, packed.reshape(1, -1), 12, tag256=4)
    np.testing.assert_array_equal(read(path), grey(twelve / 4095 * 255))


@pytest.mark.parametrize(
    ("values", "white"),
    [
        (np.array([[0, 0.25, 1]], np.float32), 1),
        (np.array([[0, 0.25, 254.6]], np.float32), 255),
        (np.array([[0, 200, 255]], np.int32), 255),
        (np.array([[0, 256, 65535]], np.int32), 65535),
    ],
)
def test_floats_and_wide_integers_of_a_clear_range(tmp_path: Path, values: np.ndarray, white: float) -> None:
    Image.fromarray(values).save(tmp_path / "x.tif")
    np.testing.assert_array_equal(read(tmp_path / "x.tif"), grey(values / white * 255))


@pytest.mark.parametrize(
    "values",
    [
        np.array([[-0.5, 1]], np.float32),
        np.array([[0, np.nan]], np.float32),
        np.array([[0, np.inf]], np.float32),
        np.array([[0, 1000]], np.float32),
        np.array([[-1, 5]], np.int32),
        np.array([[0, 70000]], np.int32),
    ],
)
def test_pixels_without_an_agreed_range_are_no_image(tmp_path: Path, values: np.ndarray) -> None:
    Image.fromarray(values).save(tmp_path / "x.tif")
    with pytest.raises(DataError, match=r"x\.tif: cannot be decoded \(pixels of mode [FI] from .*, expected 0 to "):
        read(tmp_path / "x.tif")


def test_one_bit_and_grey(tmp_path: Path) -> None:
    bits = GREY % 3 == 0
    Image.fromarray(bits).save(tmp_path / "1.png")
    np.testing.assert_array_equal(read(tmp_path / "1.png"), grey(bits * 255))
    Image.fromarray(GREY).save(tmp_path / "L.png")
    np.testing.assert_array_equal(read(tmp_path / "L.png"), grey(GREY))


def on_white(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    share = alpha[..., None] / 255
    return colour * share + 255 * (1 - share)


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_a_transparent_picture_lies_on_white(tmp_path: Path, mode: str) -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (16, 16, len(mode)), dtype=np.uint8)
    pixels[0, :, -1], pixels[1, :, -1] = 0, 255
    Image.fromarray(pixels, mode).save(tmp_path / "x.png")
    colour = np.broadcast_to(pixels[..., :-1], (16, 16, 3))
    found = read(tmp_path / "x.png")
    np.testing.assert_allclose(found, on_white(colour, pixels[..., -1]), atol=1)
    np.testing.assert_array_equal(found[0], 255)
    np.testing.assert_array_equal(found[1], colour[1])


def test_palettes_with_and_without_a_transparent_colour(tmp_path: Path) -> None:
    palette = np.random.default_rng(1).integers(0, 256, (4, 3), dtype=np.uint8)
    image = Image.fromarray(GREY % 4, "P")
    image.putpalette(palette.tobytes())
    for form in ("png", "gif"):
        image.save(tmp_path / f"x.{form}")
        np.testing.assert_array_equal(read(tmp_path / f"x.{form}"), palette[GREY % 4])
        image.save(tmp_path / f"t.{form}", transparency=2)
        expected = palette.copy()
        expected[2] = 255
        np.testing.assert_array_equal(read(tmp_path / f"t.{form}"), expected[GREY % 4])
    colour = Image.fromarray(palette[GREY % 4], "RGB")
    colour.save(tmp_path / "key.png", transparency=tuple(palette[1].tolist()))
    expected = palette.copy()
    expected[1] = 255
    np.testing.assert_array_equal(read(tmp_path / "key.png"), expected[GREY % 4])


def test_cmyk(tmp_path: Path) -> None:
    inks = np.array([[[0, 0, 0, 0], [255, 0, 0, 0], [0, 255, 255, 0], [0, 0, 0, 255]]], np.uint8)
    Image.fromarray(inks, "CMYK").save(tmp_path / "x.tif")
    expected = [[[255, 255, 255], [0, 255, 255], [255, 0, 0], [0, 0, 0]]]
    np.testing.assert_array_equal(read(tmp_path / "x.tif"), expected)


def test_exif_does_not_turn_the_pixels(tmp_path: Path) -> None:
    image = Image.fromarray(GREY[:8])
    exif = image.getexif()
    exif[274] = 6
    image.save(tmp_path / "x.png", exif=exif)
    np.testing.assert_array_equal(read(tmp_path / "x.png"), grey(GREY[:8]))


@pytest.mark.parametrize(
    ("size", "said"),
    [((2001, 100), "longer than 20 times"), ((1, 21), "longer than 20 times"), ((5793, 5793), "33,554,432 pixels")],
)
def test_too_thin_or_too_large(tmp_path: Path, size: tuple[int, int], said: str) -> None:
    Image.new("1", size).save(tmp_path / "x.png")
    for way in (lambda: open_image(tmp_path, "x.png"), lambda: load_image(tmp_path / "x.png")):
        with pytest.raises(DataError, match=said):
            way()


def test_sizes_at_the_limits_are_read(tmp_path: Path) -> None:
    for size in ((20, 1), (2000, 100)):
        Image.new("L", size).save(tmp_path / "x.png")
        assert read(tmp_path / "x.png").shape == (size[1], size[0], 3)


def test_what_is_not_there_may_be_there_at_the_next_run(tmp_path: Path) -> None:
    with pytest.raises(TransientError, match="cannot be read"):
        open_image(tmp_path, "x.png")
    (tmp_path / "x.png").write_bytes(b"not an image")
    for _ in range(2):
        with pytest.raises(DataError) as error:
            open_image(tmp_path, "x.png")
        assert not isinstance(error.value, TransientError)
        assert "0x" not in str(error.value), "no address in memory: equal inputs give equal bytes"


def test_a_pipe_or_a_device_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    for name in ("pipe.png", "zero.png"):
        with pytest.raises(DataError, match="no regular file"):
            open_image(tmp_path, name)
