"""Masks drawn over an image, as every picture of Glimpse shows them (Pillow and numpy only).

The chosen mask stands out of a shaded picture and has a solid outline, the ground truth is a dashed outline, another
rule's choice a solid one in its own colour, all other proposals are thin lines. Lines are drawn from a blurred mask:
near its border the blur is a known function of the distance, which gives smooth lines without tracing contours.
"""

from __future__ import annotations

import io
import unicodedata
from collections.abc import Mapping, Sequence
from functools import cache
from math import pi, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from store.errors import DataError, ParameterError

Mask = NDArray[np.bool_]
Plane = NDArray[np.float32]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

CHOICE = (0, 196, 214)
TRUTH = (255, 255, 255)
RIVAL = (255, 64, 160)
PROPOSAL = (255, 255, 255)
_CASING = (16, 20, 28)
_PAPER, _INK, _MUTED = (24, 28, 36), (240, 243, 247), (166, 175, 188)
LEGEND = {"choice": "chosen", "truth": "ground truth", "rival": "other rule's choice", "proposals": "other proposals"}
_TINT, _SHADE = 0.12, 0.25  # a strong tint would change the colours that expressions speak of
_BLUR = 2.0  # pixels at the nominal size
_NOMINAL = 320  # width in pixels at which lines and letters have their nominal size


def overlay(
    image: Image.Image,
    *,
    choice: Mask | None = None,
    truth: Mask | None = None,
    rival: Mask | None = None,
    proposals: Mask | None = None,
    tags: Sequence[str] = (),
    caption: Sequence[str] = (),
    legend: bool = True,
    width: int | None = None,
) -> Image.Image:
    """Draw masks over an image, and a strip with a legend and a caption under it.

    Args:
        image: RGB, H x W.
        choice, truth, rival: bool (H, W): the chosen mask, the ground truth, what another rule chose. An empty mask or
            None draws nothing.
        proposals: bool (N, H, W), all drawn thin; N may be 0.
        tags: short texts for the first proposals, drawn on them.
        caption: lines of text, wrapped; the first stands out. Characters that the font cannot draw come as "?".
        legend: whether to explain the outlines under the picture.
        width: width of the result in pixels; that of the image by default.

    Returns:
        RGB picture; without legend and caption its size is that of the (scaled) image.

    Raises:
        DataError: a mask of another size than the image.
    """
    named = {"choice": choice, "truth": truth, "rival": rival}
    _require_sizes((image.height, image.width), named, proposals)
    width = width or image.width
    size = (width, max(1, round(image.height * width / image.width)))
    picture = image.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    unit = max(1.0, (width / _NOMINAL) ** 0.7)  # larger pictures need less than proportional lines and letters

    if choice is not None and choice.any():
        _highlight(picture, choice)
    others = [_Outline(mask, size, unit) for mask in ([] if proposals is None else proposals)]
    for other in others:
        other.draw(picture, PROPOSAL, width=0.9, casing=1.6, opacity=0.75)
    if rival is not None:
        _Outline(rival, size, unit).draw(picture, RIVAL, width=2.2)
    if choice is not None:
        _Outline(choice, size, unit).draw(picture, CHOICE, width=2.4)
    if truth is not None:
        _Outline(truth, size, unit).draw(picture, TRUTH, width=2.0, dash=6.0)
    for other, tag in reversed(list(zip(others, tags, strict=False))):  # the first on top
        _tag(picture, other.mask, tag, unit)
    shown = [key for key, mask in named.items() if mask is not None] if legend else []
    return _with_strip(picture, [*shown, *(["proposals"] if legend and others else [])], caption, unit)


def _require_sizes(shape: tuple[int, int], named: Mapping[str, Mask | None], proposals: Mask | None) -> None:
    """Raise a DataError for a mask of another size than the image."""
    for name, mask in named.items():
        if mask is not None and mask.shape != shape:
            raise DataError(f"overlay: expected {name} bool (H, W) = {shape} as the image, got {mask.shape}")
    if proposals is not None and proposals.shape[1:] != shape:
        raise DataError(f"overlay: expected proposals bool (N, H, W) with (H, W) = {shape}, got {proposals.shape}")


class _Outline:
    """The border of one mask at the size of the picture, held for the mask's surroundings only.

    Attributes:
        mask: bool (H, W), at the size of the image.
        box: None where the mask covers nothing of the picture.
        corner: x, y of the surroundings' left top pixel in the picture; may be negative.
        distance: approximate signed distance to the border in pixels (h, w), positive inside, cut at 1.25 blurs.
    """

    def __init__(self, mask: Mask, size: tuple[int, int], unit: float) -> None:
        self.mask, self.unit = mask, unit
        blur = _BLUR * unit
        pad = int(3 * blur) + 1
        plane, (x, y) = _scaled(mask, size)
        self.box = plane.getbbox()
        if self.box is None:
            return
        left, top, right, bottom = self.box
        self.corner = (x + left - pad, y + top - pad)
        # What lies beyond the picture is cut as zeros, so that a mask at its edge has a border there.
        cut = plane.crop((left - pad, top - pad, right + pad, bottom + pad)).filter(ImageFilter.GaussianBlur(blur))
        field = np.asarray(cut, np.float32) / 255
        level = min(0.5, 0.8 * float(field.max()))  # the blur of a sliver stays under one half
        self.distance: Plane = ((field / level - 1) * blur * sqrt(pi / 2)).astype(np.float32)

    def draw(
        self,
        picture: Image.Image,
        colour: tuple[int, int, int],
        width: float,
        casing: float = 1.4,
        opacity: float = 1.0,
        dash: float = 0.0,
    ) -> None:
        """Paint the line over a dark casing; ``width``, the ``casing``'s extra and ``dash`` in nominal pixels."""
        if self.box is None:
            return
        dashes = self._dashes(dash * self.unit) if dash else np.float32(1)
        for paint, breadth, strength in ((_CASING, width + casing, 0.6), (colour, width, 1.0)):
            band = np.clip(breadth * self.unit / 2 + 0.5 - np.abs(self.distance), 0, 1)
            plane = Image.fromarray((band * dashes * (255 * opacity * strength) + 0.5).astype(np.uint8))
            x, y = self.corner
            picture.paste(paint, (x, y, x + plane.width, y + plane.height), plane)

    def _dashes(self, length: float) -> Plane:
        """1 on dashes, 0 in gaps (h, w): stripes along whichever diagonal crosses the border more steeply."""
        rows, columns = np.gradient(self.distance)
        y, x = np.indices(self.distance.shape, np.float32)
        along = np.where(rows * columns > 0, x - y, x + y) / np.float32(2 * length * sqrt(2))
        stripes: Plane = np.clip(2 * length * (0.27 - np.abs(along % 1 - 0.5)) + 0.5, 0, 1).astype(np.float32)
        return stripes


FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
"""Suffix of a picture's file -> Pillow's name of the format."""


def encoded(picture: Image.Image, suffix: str) -> bytes:
    """``picture`` as a file of the format that ``suffix`` names (``FORMATS``).

    In memory: Pillow says "encoder error" where a disk is full, and not which error.

    Raises:
        ParameterError: another suffix.
    """
    if suffix.lower() not in FORMATS:
        raise ParameterError(
            f"expected a picture's file name to end in {', '.join(FORMATS)}, got {suffix!r}; name another"
        )
    buffer = io.BytesIO()
    picture.save(buffer, format=FORMATS[suffix.lower()])
    return buffer.getvalue()


def _scaled(mask: Mask, size: tuple[int, int]) -> tuple[Image.Image, tuple[int, int]]:
    """The mask in grey at the size of the picture, without what is 0 around it; x, y of its left top pixel there."""
    corner, extent, region = [], [], []
    for axis, (length, wanted) in enumerate(zip(mask.shape[::-1], size, strict=True)):
        first, last = _extent(mask.any(axis))
        if first == last:
            return Image.new("L", (1, 1)), (0, 0)
        scale = wanted / length
        reach = max(1.0, 1 / scale) + 1  # of the bilinear filter, pixels of the mask, and one for rounding
        start = max(0, int((first - reach) * scale) - 1)
        stop = min(wanted, int((last + reach) * scale) + 2)
        corner.append(start)
        extent.append(stop - start)
        region.append((start / scale, min(length, stop / scale)))
    (left, right), (top, bottom) = region
    plane = Image.fromarray(mask.astype(np.uint8) * 255)
    part = plane.resize((extent[0], extent[1]), Image.Resampling.BILINEAR, box=(left, top, right, bottom))
    return part, (corner[0], corner[1])


def _extent(filled: Any) -> tuple[int, int]:
    """The first true place of bool (L,) and the one behind the last; 0, 0 for none."""
    places = np.flatnonzero(filled)
    return (int(places[0]), int(places[-1]) + 1) if len(places) else (0, 0)


def _highlight(picture: Image.Image, mask: Mask) -> None:
    """Tint ``mask`` and shade everything else."""
    inside = Image.new("L", picture.size)
    inside.paste(*_scaled(mask, picture.size))
    picture.paste(_CASING, mask=inside.point(lambda value: round((255 - value) * _SHADE)))
    picture.paste(CHOICE, mask=inside.point(lambda value: round(value * _TINT)))


def _tag(picture: Image.Image, mask: Mask, text: str, unit: float) -> None:
    """A small label on the pixel of ``mask`` nearest to its centroid."""
    (top, bottom), (left, right) = (_extent(mask.any(axis)) for axis in (1, 0))
    rows, columns = np.nonzero(mask[top:bottom, left:right])
    if not len(rows):
        return
    rows, columns = rows + top, columns + left
    nearest = np.argmin((rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2)
    x = (columns[nearest] + 0.5) * picture.width / mask.shape[1]
    y = (rows[nearest] + 0.5) * picture.height / mask.shape[0]
    font = _font(round(11 * unit))
    drawn = drawable(text)
    half_width, half_height = font.getlength(drawn) / 2 + 4 * unit, 7.5 * unit
    x = min(max(x, half_width), picture.width - half_width)
    y = min(max(y, half_height), picture.height - half_height)
    draw = ImageDraw.Draw(picture)
    box = (x - half_width, y - half_height, x + half_width, y + half_height)
    draw.rounded_rectangle(box, 4 * unit, fill=_PAPER, outline=PROPOSAL)
    draw.text((x, y), drawn, _INK, font, anchor="mm")


def _with_strip(picture: Image.Image, shown: Sequence[str], caption: Sequence[str], unit: float) -> Image.Image:
    """The picture with a legend of the things ``shown`` and the caption under it."""
    if not shown and not any(caption):
        return picture
    size = round(13 * unit)
    font, line, margin = _font(size), round(size * 1.4), round(10 * unit)
    lines = [
        (_INK if i == 0 else _MUTED, part)
        for i, text in enumerate(caption)
        for part in _wrapped(text, font, picture.width - 2 * margin)
    ]
    places = _legend_places(shown, font, line, margin, picture.width)
    legend_height = places[-1][1] + line if places else 0
    result = Image.new("RGB", (picture.width, picture.height + legend_height + line * len(lines) + 2 * margin), _PAPER)
    result.paste(picture)
    draw = ImageDraw.Draw(result)
    top = picture.height + margin
    for text_colour, text in lines:
        draw.text((margin, top), text, text_colour, font)
        top += line
    for key, (x, y) in zip(shown, places, strict=True):
        _swatch(draw, key, x, top + y, line)
        draw.text((x + 2 * line, top + y), LEGEND[key], _MUTED, font)
    return result


def _legend_places(shown: Sequence[str], font: Font, line: int, margin: int, width: int) -> list[tuple[int, int]]:
    """Left top corner of every legend entry, row by row."""
    places, x, y = [], margin, 0
    for key in shown:
        length = 2 * line + round(font.getlength(LEGEND[key])) + line
        if x > margin and x + length - line > width - margin:
            x, y = margin, y + line
        places.append((x, y))
        x += length
    return places


def _swatch(draw: ImageDraw.ImageDraw, key: str, x: int, y: int, line: int) -> None:
    colour = {"choice": CHOICE, "truth": TRUTH, "rival": RIVAL, "proposals": PROPOSAL}[key]
    thickness = max(1, line // (18 if key == "proposals" else 8))
    left, right, middle = x, round(x + 1.6 * line), round(y + 0.45 * line)
    if key == "choice":
        fill = tuple(round(0.4 * c + 0.6 * p) for c, p in zip(CHOICE, _PAPER, strict=True))
        draw.rectangle((left, y, right, round(y + 0.9 * line)), fill=fill, outline=colour, width=thickness)
        return
    pieces = 3 if key == "truth" else 1
    step = (right - left) / (2 * pieces - 1)
    for piece in range(pieces):
        start = left + 2 * piece * step
        draw.line((start, middle, start + (step if pieces > 1 else right - left), middle), colour, thickness)


@cache
def _font(size: int) -> Font:
    return ImageFont.load_default(size)


def drawable(text: str) -> str:
    """``text`` in characters that Pillow's built-in font (ASCII and some signs) has: accents go, the rest are "?"."""
    plain = (c for c in unicodedata.normalize("NFKD", " ".join(text.split())) if not unicodedata.combining(c))
    return "".join(c if _has_glyph(c) else "-" if unicodedata.category(c) == "Pd" else "?" for c in plain)


@cache
def _has_glyph(character: str) -> bool:
    font = _font(16)
    return character == " " or bytes(font.getmask(character)) != bytes(font.getmask("\uffff"))


def _wrapped(text: str, font: Font, width: int) -> list[str]:
    """Lines of ``text`` of at most ``width`` pixels; a longer word is cut."""
    lines: list[str] = []
    for word in drawable(text).split(" "):
        joined = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(joined) <= width:
            lines[-1] = joined
            continue
        while len(word) > 1 and font.getlength(word) > width:
            fits = max(1, next(n for n in range(1, len(word)) if font.getlength(word[: n + 1]) > width))
            lines.append(word[:fits])
            word = word[fits:]
        lines.append(word)
    return lines
