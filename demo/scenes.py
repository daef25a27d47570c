"""RefShapes scenes: coloured, patterned shapes that partly hide each other, with the mask of what is visible of each.

Everything is drawn from one random generator, so a scene is a pure function of its seed. Evaluation and training scenes
take their generators from different seed namespaces (`evaluation_rng`, `training_rng`) and so never meet.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

Mask = npt.NDArray[np.bool_]
Plane = npt.NDArray[np.float32]

ROUNDED = ("circle", "ring", "heart", "moon")
ANGULAR = ("square", "triangle", "star", "cross")
SHAPES = ROUNDED + ANGULAR
FILLINGS = ("solid", "striped", "dotted", "checkered")
SIZES = {"small": (44, 58), "large": (82, 108)}  # diameter in pixels, both ends included
IMAGE_SIZES = ((320, 240), (240, 320), (288, 288), (320, 256), (256, 320))  # width, height

# Main colour and the second colour of its patterns.
COLOURS = {
    "red": ((214, 40, 45), (250, 214, 205)),
    "orange": ((244, 132, 26), (255, 236, 205)),
    "yellow": ((250, 211, 48), (176, 128, 12)),
    "green": ((46, 150, 72), (208, 240, 196)),
    "blue": ((40, 98, 204), (204, 226, 252)),
    "purple": ((124, 60, 170), (228, 208, 246)),
    "pink": ((245, 128, 178), (255, 232, 240)),
    "black": ((40, 40, 46), (206, 206, 212)),
}
_BACKGROUNDS = (  # two ends of a gradient, pale enough for every object colour to stand out
    ((236, 226, 208), (206, 192, 168)),
    ((214, 226, 234), (168, 188, 204)),
    ((222, 230, 214), (178, 194, 166)),
    ((238, 232, 226), (196, 190, 188)),
    ((228, 216, 222), (190, 178, 192)),
    ((212, 230, 226), (160, 190, 188)),
    ((240, 222, 204), (208, 176, 156)),
    ((200, 204, 214), (150, 158, 174)),
)

MIN_VISIBLE = 0.45  # an object may be hidden by at most 1 - MIN_VISIBLE of its own area
EVAL_SEED = 0x6576616C
TRAIN_SEED = 0x74726169
_SUPERSAMPLE = 3
_MARGIN = 4  # pixels between an object and the image border
_SHADOW = 10  # pixels a shadow may reach beyond its object


@dataclass(frozen=True)
class SceneObject:
    """One object of a scene. `mask` is bool (H, W): its visible pixels. `box` is XYXY of `mask`, ends exclusive.

    `centre` is the (x, y) centroid of `mask` in pixels; `visible` the share of the whole shape's area left in `mask`;
    `hidden_by` the indices, in the scene, of the objects that cover some of it.
    """

    shape: str
    colour: str
    filling: str
    size: str
    mask: Mask
    box: tuple[int, int, int, int]
    centre: tuple[float, float]
    visible: float
    hidden_by: tuple[int, ...]


@dataclass(frozen=True)
class Scene:
    """An RGB image and its objects, the hindmost first."""

    image: Image.Image
    objects: list[SceneObject]


@dataclass
class _Placed:
    """A drawn object: looks, whole mask (bool (H, W)), the part still visible, centre, diameter, who hides it."""

    looks: tuple[str, str, str, str]
    full_mask: Mask
    mask: Mask
    x: float
    y: float
    diameter: int
    hidden_by: tuple[int, ...] = ()


def evaluation_rng(index: int, seed: int = 0) -> np.random.Generator:
    """The generator of evaluation scene `index` (0 <= index, seed < 2**32)."""
    return np.random.default_rng(np.random.SeedSequence([EVAL_SEED, seed, index]))


def training_rng(index: int, seed: int = 0) -> np.random.Generator:
    """The generator of training scene `index` (0 <= index, seed < 2**32); never that of an evaluation scene."""
    return np.random.default_rng(np.random.SeedSequence([TRAIN_SEED, seed, index]))


def draw_scene(rng: np.random.Generator, size: tuple[int, int] | None = None) -> Scene:
    """Draw one scene of 3 to 7 objects; `size` is (width, height) in pixels, at least 240 each, drawn when None."""
    width, height = IMAGE_SIZES[int(rng.integers(len(IMAGE_SIZES)))] if size is None else size
    canvas = _background(rng, width, height)
    wanted = int(rng.integers(3, 8))
    placed: list[_Placed] = []
    for attempt in range(200):
        if len(placed) == wanted or (attempt > 40 and len(placed) >= 3):
            break
        _try_object(rng, canvas, placed, only_small=attempt > 20)
    image = Image.fromarray(np.clip(canvas + 0.5, 0, 255).astype(np.uint8))
    return Scene(image, [_finished(item) for item in placed])


def _finished(item: _Placed) -> SceneObject:
    columns, rows = (np.count_nonzero(item.mask, axis=axis) for axis in (0, 1))
    xs, ys = np.flatnonzero(columns), np.flatnonzero(rows)
    box = (int(xs[0]), int(ys[0]), int(xs[-1]) + 1, int(ys[-1]) + 1)
    area = int(columns.sum())
    centre = (float(columns[xs] @ (xs + 0.5) / area), float(rows[ys] @ (ys + 0.5) / area))
    visible = area / int(np.count_nonzero(item.full_mask))
    return SceneObject(*item.looks, item.mask, box, centre, visible, item.hidden_by)


def _try_object(rng: np.random.Generator, canvas: Plane, placed: list[_Placed], only_small: bool) -> None:
    """Paint one more object onto `canvas` (float32 (H, W, 3)) unless it would lie badly."""
    height, width = canvas.shape[:2]
    looks = _looks(rng, placed, only_small)
    diameter = int(rng.integers(*SIZES[looks[3]], endpoint=True))
    contrasting = [other for other in placed if other.looks[1] != looks[1]]
    partner = contrasting[int(rng.integers(len(contrasting)))] if contrasting and rng.random() < 0.45 else None
    spot = _spot(rng, placed, partner, diameter, width, height)
    if spot is None:
        return
    alpha, edge = _shape_planes(rng, looks[0], diameter)
    left, top = int(spot[0] - diameter / 2), int(spot[1] - diameter / 2)
    full_mask = np.zeros((height, width), dtype=np.bool_)
    full_mask[top : top + diameter, left : left + diameter] = alpha > 0.5
    still_visible = [other.mask & ~full_mask for other in placed]
    for other, rest in zip(placed, still_visible, strict=True):
        if np.count_nonzero(rest) < MIN_VISIBLE * np.count_nonzero(other.full_mask):
            return
    for other, rest in zip(placed, still_visible, strict=True):
        if np.count_nonzero(rest) < np.count_nonzero(other.mask):
            other.mask, other.hidden_by = rest, (*other.hidden_by, len(placed))
    _shade_ground(canvas, alpha, left, top)
    region = canvas[top : top + diameter, left : left + diameter]
    region += alpha[:, :, None] * (_surface(rng, looks, edge, diameter) - region)
    placed.append(_Placed(looks, full_mask, full_mask, left + diameter / 2, top + diameter / 2, diameter))


def _looks(rng: np.random.Generator, placed: list[_Placed], only_small: bool) -> tuple[str, str, str, str]:
    """Shape, colour, filling and size; often shared in part with an earlier object, so that telling apart takes words."""
    looks = [
        SHAPES[int(rng.integers(len(SHAPES)))],
        tuple(COLOURS)[int(rng.integers(len(COLOURS)))],
        FILLINGS[int(rng.integers(len(FILLINGS)))],
        "small" if only_small or rng.random() < 0.45 else "large",
    ]
    if placed and rng.random() < 0.6:
        model = placed[int(rng.integers(len(placed)))].looks
        for part in range(3):
            if rng.random() < 0.55:
                looks[part] = model[part]
    return looks[0], looks[1], looks[2], looks[3]


def _spot(
    rng: np.random.Generator, placed: list[_Placed], partner: _Placed | None, diameter: int, width: int, height: int
) -> tuple[float, float] | None:
    """A centre (x, y) clear of the others; on purpose over the edge or the middle of `partner` if there is one."""
    low, high_x, high_y = diameter / 2 + _MARGIN, width - diameter / 2 - _MARGIN, height - diameter / 2 - _MARGIN
    for _ in range(12):
        if partner is None:
            x, y = rng.uniform(low, high_x), rng.uniform(low, high_y)
        else:
            angle, reach = rng.uniform(0, 2 * np.pi), (partner.diameter + diameter) / 2 * rng.uniform(0.0, 0.85)
            x, y = partner.x + reach * np.cos(angle), partner.y + reach * np.sin(angle)
            if not (low <= x <= high_x and low <= y <= high_y):
                continue
        others = [other for other in placed if other is not partner]
        if all(np.hypot(o.x - x, o.y - y) > 0.5 * (o.diameter + diameter) + 2 for o in others):
            return float(x), float(y)
    return None


def shape_outlines(shape: str) -> list[Plane]:
    """The closed outlines of a shape as float (P, 2) x, y within the unit circle's box; a second one is a hole."""
    turn = np.linspace(0, 2 * np.pi, 72, endpoint=False)
    circle = np.stack([np.cos(turn), np.sin(turn)], axis=1)
    if shape == "circle":
        outlines = [circle]
    elif shape == "ring":
        outlines = [circle, 0.52 * circle]
    elif shape == "heart":
        x = 16 * np.sin(turn) ** 3
        y = 13 * np.cos(turn) - 5 * np.cos(2 * turn) - 2 * np.cos(3 * turn) - np.cos(4 * turn)
        outlines = [np.stack([x / 17, -(y + 2.5) / 15], axis=1)]
    elif shape == "moon":
        outer = np.linspace(0.22 * np.pi, 1.78 * np.pi, 60)
        tip = np.array([np.cos(outer[0]), np.sin(outer[0])])
        centre_x, radius = 0.42, float(np.hypot(tip[0] - 0.42, tip[1]))
        start = np.arctan2(tip[1], tip[0] - centre_x)
        inner = np.linspace(2 * np.pi - start, start, 40)
        inside = np.stack([centre_x + radius * np.cos(inner), radius * np.sin(inner)], axis=1)
        outside = np.stack([np.cos(outer), np.sin(outer)], axis=1)
        outlines = [np.concatenate([outside, inside]) + np.array([0.1, 0.0])]
    elif shape == "square":
        outlines = [0.8 * np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])]
    elif shape == "triangle":
        corners = np.pi / 2 + np.arange(3) * 2 * np.pi / 3
        outlines = [np.stack([np.cos(corners), 0.15 - np.sin(corners)], axis=1)]
    elif shape == "star":
        corners = np.pi / 2 + np.arange(10) * np.pi / 5
        reach = np.where(np.arange(10) % 2 == 0, 1.0, 0.45)
        outlines = [np.stack([reach * np.cos(corners), -reach * np.sin(corners)], axis=1)]
    elif shape == "cross":
        a, b = 0.32, 0.94
        corner = [[-a, -b], [a, -b], [a, -a], [b, -a], [b, a], [a, a], [a, b], [-a, b], [-a, a], [-b, a], [-b, -a]]
        outlines = [np.array([*corner, [-a, -a]])]
    else:
        raise ValueError(f"no shape {shape!r}; one of {', '.join(SHAPES)} expected")
    return [outline.astype(np.float32) for outline in outlines]


def _shape_planes(rng: np.random.Generator, shape: str, diameter: int) -> tuple[Plane, Plane]:
    """Coverage of the shape and of its drawn edge, float32 (diameter, diameter) in [0, 1], smooth at the borders."""
    limit = {"circle": 0.0, "ring": 0.0, "moon": np.pi, "star": np.pi}.get(shape, 0.3)
    angle = rng.uniform(-limit, limit) if limit else 0.0
    cos, sin = np.cos(angle), np.sin(angle)
    fine = diameter * _SUPERSAMPLE
    inside, edge = Image.new("L", (fine, fine)), Image.new("L", (fine, fine))
    pen, edge_pen = ImageDraw.Draw(inside), ImageDraw.Draw(edge)
    for depth, outline in enumerate(shape_outlines(shape)):
        rotated = outline @ np.array([[cos, sin], [-sin, cos]])
        points = [(float(x), float(y)) for x, y in (0.94 * rotated + 1) * (fine / 2)]
        pen.polygon(points, fill=0 if depth else 255)
        joint = "curve" if len(points) <= 12 else None  # slow, and a smooth outline shows no corners
        edge_pen.line([*points, *points[:2]], fill=255, width=4 * _SUPERSAMPLE, joint=joint)
    return _coverage(inside), _coverage(edge)


def _coverage(fine: Image.Image) -> Plane:
    return np.asarray(fine.reduce(_SUPERSAMPLE), dtype=np.float32) / np.float32(255)


def _surface(rng: np.random.Generator, looks: tuple[str, str, str, str], edge: Plane, diameter: int) -> Plane:
    """The object's paint, float32 (diameter, diameter, 3): pattern, light from above left, darker edge."""
    main, second = (np.asarray(colour, dtype=np.float32) for colour in COLOURS[looks[1]])
    main = main + rng.uniform(-9, 9, 3).astype(np.float32)
    y, x = np.mgrid[0:diameter, 0:diameter].astype(np.float32) - np.float32(diameter / 2)
    paint = main + _pattern(rng, looks[2], x, y)[:, :, None] * (second - main)
    light = 1.06 - 0.16 * (x + y) / diameter
    glow = np.clip(1 - np.hypot(x + 0.22 * diameter, y + 0.26 * diameter) / (0.34 * diameter), 0, 1) ** 2
    paint = paint * light[:, :, None] + (34 * glow)[:, :, None]
    rim = np.minimum(main, 150) * np.float32(0.5)
    return np.asarray(np.minimum(paint + (0.75 * edge)[:, :, None] * (rim - paint), 255), dtype=np.float32)


def _pattern(rng: np.random.Generator, filling: str, x: Plane, y: Plane) -> Plane:
    """Share of the second colour, float32 like x; steps one pixel wide, so that they look smooth."""
    angle, period = rng.uniform(0, np.pi), np.float32(rng.uniform(12.5, 15.5))
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    if filling == "striped":
        return _soft(np.abs((along / period) % 1 - 0.5) * period - 0.25 * period)
    if filling == "dotted":
        u, v = ((along / period) % 1 - 0.5) * period, ((across / period) % 1 - 0.5) * period
        return _soft(0.31 * period - np.hypot(u, v))
    if filling == "checkered":
        u, v = (np.abs((side / (1.5 * period)) % 1 - 0.5) * 1.5 - 0.375 for side in (along, across))
        return _soft(np.sign(u * v) * np.minimum(np.abs(u), np.abs(v)) * period)
    return np.zeros_like(x)


def _soft(distance: Plane) -> Plane:
    return np.asarray(np.clip(distance + 0.5, 0, 1), dtype=np.float32)


def _shade_ground(canvas: Plane, alpha: Plane, left: int, top: int) -> None:
    """Darken what lies under an object by its soft shadow, a little below and to the right of it."""
    diameter = alpha.shape[0]
    side = diameter + 2 * _SHADOW
    plane = Image.new("L", (side, side))
    plane.paste(Image.fromarray((alpha * 255).astype(np.uint8)), (_SHADOW + 3, _SHADOW + 4))
    shadow = np.asarray(plane.filter(ImageFilter.BoxBlur(3)).filter(ImageFilter.BoxBlur(2)), dtype=np.float32) / 255
    y0, x0 = max(top - _SHADOW, 0), max(left - _SHADOW, 0)
    region = canvas[y0 : top + diameter + _SHADOW, x0 : left + diameter + _SHADOW]
    rows, columns = y0 - (top - _SHADOW), x0 - (left - _SHADOW)
    region *= 1 - 0.38 * shadow[rows : rows + region.shape[0], columns : columns + region.shape[1], None]


def _background(rng: np.random.Generator, width: int, height: int) -> Plane:
    """A pale gradient with soft clouds and one of a few faint textures, float32 (height, width, 3)."""
    first, last = (np.asarray(end, dtype=np.float32) for end in _BACKGROUNDS[int(rng.integers(len(_BACKGROUNDS)))])
    y, x = np.ogrid[0:height, 0:width]
    x, y = x.astype(np.float32), y.astype(np.float32)
    angle = rng.uniform(0, 2 * np.pi)
    ramp = (x / width - 0.5) * np.cos(angle) + (y / height - 0.5) * np.sin(angle)
    cells = Image.fromarray(rng.normal(0, 1, (5, 6)).astype(np.float32))
    clouds = np.asarray(cells.resize((width, height), Image.Resampling.BICUBIC))
    tone = np.clip(0.5 + 0.7 * ramp + 0.16 * clouds, 0, 1).astype(np.float32)
    canvas = first + tone[:, :, None] * (last - first)
    canvas += _texture(rng, x, y, width, height)[:, :, None]
    return np.asarray(canvas, dtype=np.float32)


def _texture(rng: np.random.Generator, x: Plane, y: Plane, width: int, height: int) -> Plane:
    """Brightness to add, float32 (height, width): nothing, paper, boards, weave or soft spots of light."""
    kind, strength = int(rng.integers(5)), rng.uniform(3, 7)
    angle, period = rng.uniform(0, np.pi), rng.uniform(7, 12)
    if kind == 1:  # paper
        grain = Image.fromarray(rng.normal(0, 1, (height // 3, width // 3)).astype(np.float32))
        smooth = grain.resize((width, height), Image.Resampling.BILINEAR)
        return np.asarray(0.5 * strength * np.asarray(smooth), dtype=np.float32)
    if kind == 2:  # boards
        board = np.floor(y / (4 * period)).astype(np.intp) + 0 * x.astype(np.intp)
        tones = rng.normal(0, strength, int(board.max()) + 1).astype(np.float32)
        return np.asarray(tones[board] - np.where(y % (4 * period) < 1.5, 14, 0), dtype=np.float32)
    if kind == 3:  # weave
        along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
        wave = np.sin(along * 6.28 / period) + np.sin(across * 6.28 / period)
        return np.asarray(0.5 * strength * wave, dtype=np.float32)
    total = np.zeros((height, width), dtype=np.float32)
    if kind == 4:  # spots of light
        for _ in range(7):
            centre_x, centre_y, radius = rng.uniform(0, width), rng.uniform(0, height), rng.uniform(14, 44)
            total += strength * np.clip((radius - np.hypot(x - centre_x, y - centre_y)) / 3, 0, 1)
    return total
