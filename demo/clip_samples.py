"""Training pairs for RefShapes' CLIP: scenes, windows of scenes and regions of scenes, with captions of what they show.

A window is a photo taken closer: a rectangle of the image around one object, never masked. A region is an ellipse of
patches, all that the last blocks get to see of a scene: patch dropping (Li et al., CVPR 2023) in one piece. Images are
prepared by the pipeline's own code (reference preprocessing), but for the first resize of the short side, which says
little here and costs much.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from demo.captions import (
    ATTRIBUTES,
    PLACES,
    Phrase,
    appearance,
    description,
    loose_places,
    noun_phrase,
    placed,
    position,
    relation,
    reworded,
)
from demo.scenes import COLOURS, FILLINGS, SHAPES, SIZES, Mask, Scene, SceneObject
from stages.visual.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess

_PREPROCESS = Preprocess(IMAGENET_MEAN, IMAGENET_STD, antialias=False, short_side=240, fill="reference")
_VALUES = {"shape": SHAPES, "colour": tuple(COLOURS), "filling": FILLINGS, "size": tuple(SIZES)}
SHOWN, HINTED = 0.8, 0.1  # an object is shown if so much of it lies in the view, and only hinted at from the other on
FEW = 2  # objects of a view that a caption names all
WINDOW_MARGINS = ((0.12, 0.4), (0.5, 0.75), (1.5, 1.0))  # of the object's box, at most; cumulated chance
REGION_RADII = ((0.9, 1.4, 0.7), (1.4, 2.2, 1.0))  # of half the box, from and to; cumulated chance

RADIUS = (26, 90)  # of a region, at least and at most, in pixels; less might miss the grid


@dataclass(frozen=True)
class Caption:
    """What is said, and its meaning: a phrase for each object it names, and the place of the first, if it tells."""

    text: str
    phrases: tuple[Phrase, ...]
    place: str | None = None


@dataclass(frozen=True)
class View:
    """What an image or a part of it shows, and what is said of it.

    `objects` are to be seen, `hinted` only in part. `places` (objects + hinted, PLACES), bool: which they may be said to
    lie in. `captions` are true, each of `foils` is nearly the same but, unless by chance, false.
    """

    objects: tuple[SceneObject, ...]
    hinted: tuple[SceneObject, ...]
    places: npt.NDArray[np.bool_]
    captions: tuple[Caption, ...]
    foils: tuple[Caption, ...]


@dataclass(frozen=True)
class Samples:
    """Images with S scenes and W windows, and R regions of scenes, on the encoder's grid.

    `scenes` float32 (S, 3, side, side), `windows` (W, 3, side, side), `regions` (R, grid, grid) in [0, 1] of the scenes
    `owners` int64 (R,). `views` (S + W + R) are of scenes, windows, regions in that order.
    """

    scenes: Tensor
    windows: Tensor
    regions: Tensor
    owners: Tensor
    views: list[View]


def normalised(image: Image.Image) -> Tensor:
    """RGB image -> ImageNet-normalised float32 (3, H, W) of the same size."""
    return replace(_PREPROCESS, short_side=min(image.size)).prepare(image, torch.device("cpu")).tensor


def samples(
    rng: np.random.Generator, scenes: list[Scene], windows: int, regions: int, side: int, grid: tuple[int, int]
) -> Samples:
    """The scenes, and so many windows and regions of each, of different objects as far as there are enough."""
    whole, close, weights, owners = [], [], [], []
    views: tuple[list[View], list[View], list[View]] = ([], [], [])
    for number, scene in enumerate(scenes):
        pixels = normalised(scene.image)
        whole.append(_PREPROCESS.resize(pixels[None], (side, side))[0])
        views[0].append(_view(rng, scene, np.ones_like(scene.objects[0].mask), True, 2))
        for index in _chosen(rng, scene, windows):
            left, top, right, bottom = window(rng, scene, index)
            close.append(_PREPROCESS.resize(pixels[None, :, top:bottom, left:right], (side, side))[0])
            inside = np.zeros_like(scene.objects[0].mask)
            inside[top:bottom, left:right] = True
            views[1].append(_view(rng, scene, inside, False, 1))
        for index in _chosen(rng, scene, regions):
            inside = region(rng, scene, index)
            weights.append(_PREPROCESS.grid_masks(inside[None], grid, 1, torch.device("cpu"))[0])
            views[2].append(_view(rng, scene, inside, True, 1))
            owners.append(number)
    empty = torch.zeros(0, 3, side, side), torch.zeros(0, *grid)
    return Samples(
        torch.stack(whole),
        torch.stack(close) if close else empty[0],
        torch.stack(weights) if weights else empty[1],
        torch.tensor(owners, dtype=torch.int64),
        [view for some in views for view in some],
    )


def window(rng: np.random.Generator, scene: Scene, index: int) -> tuple[int, int, int, int]:
    """A rectangle with the whole of one object and some of its surroundings: XYXY, ends exclusive."""
    x0, y0, x1, y1 = scene.objects[index].box
    chance = rng.random()
    most = next(margin for margin, upto in WINDOW_MARGINS if chance < upto)
    left, right = (most * (x1 - x0) * rng.random(2)).astype(int)
    top, bottom = (most * (y1 - y0) * rng.random(2)).astype(int)
    width, height = scene.image.size
    return max(x0 - left, 0), max(y0 - top, 0), min(x1 + right, width), min(y1 + bottom, height)


def region(rng: np.random.Generator, scene: Scene, index: int) -> Mask:
    """An ellipse about one object, bool (H, W): its outline says nothing of the object's."""
    x0, y0, x1, y1 = scene.objects[index].box
    chance = rng.random()
    low, high = next((low, high) for low, high, upto in REGION_RADII if chance < upto)
    radius_x, radius_y = np.clip(rng.uniform(low, high, 2) * (x1 - x0, y1 - y0) / 2, *RADIUS)
    x, y = (np.array([x0 + x1, y0 + y1]) + rng.normal(0, 0.12, 2) * (x1 - x0, y1 - y0)) / 2
    rows, columns = np.ogrid[0 : scene.image.height, 0 : scene.image.width]
    return np.asarray(((columns - x) / radius_x) ** 2 + ((rows - y) / radius_y) ** 2 < 1)


def truths(captions: list[Caption], views: list[View]) -> npt.NDArray[np.bool_]:
    """Bool (C, N): caption i can be said of view j. What is hinted at counts, so as to call nothing false that may be
    true; of a view of few objects, all must be named."""
    said = np.array([_codes(phrase) for caption in captions for phrase in caption.phrases])
    seen = [(*view.objects, *view.hinted) for view in views]
    shown = np.array([_codes(item) for items in seen for item in items])
    phrase_counts = np.array([len(caption.phrases) for caption in captions])
    object_counts = np.array([len(items) for items in seen])
    fits = ((said[:, None] == -1) | (said[:, None] == shown[None])).all(axis=2)
    allowed = np.concatenate([view.places for view in views])
    firsts = np.cumsum(phrase_counts) - phrase_counts
    for caption, first in zip(captions, firsts, strict=True):
        if caption.place is not None:
            fits[first] &= allowed[:, PLACES.index(caption.place)]
    fits = np.logical_or.reduceat(fits, np.cumsum(object_counts) - object_counts, axis=1)
    fits = np.logical_and.reduceat(fits, firsts, axis=0)
    named, least = phrase_counts[:, None], np.array([len(view.objects) for view in views])
    return np.asarray(fits & ((least > FEW) | (named >= least)))


def _codes(item: Phrase | SceneObject) -> list[int]:
    said = ((getattr(item, name), values) for name, values in _VALUES.items())
    return [-1 if value is None else values.index(value) for value, values in said]


def _chosen(rng: np.random.Generator, scene: Scene, count: int) -> list[int]:
    return [int(i) for i in np.resize(rng.permutation(len(scene.objects)), count)]


def _view(rng: np.random.Generator, scene: Scene, inside: Mask, in_place: bool, captions: int) -> View:
    """The view of what lies `inside`; `in_place` if places of the scene are places of the view."""
    shares = [np.count_nonzero(item.mask & inside) / np.count_nonzero(item.mask) for item in scene.objects]
    shown = [i for i, share in enumerate(shares) if share >= SHOWN]
    if not shown:
        shown = [int(np.argmax(shares))]
    hinted = [i for i, share in enumerate(shares) if share >= HINTED and i not in shown]
    said, foils = zip(*(_caption(rng, scene, shown, in_place) for _ in range(captions)), strict=True)
    places = np.array([loose_places(scene, i) if in_place else [True] * len(PLACES) for i in (*shown, *hinted)])
    objects = scene.objects
    return View(tuple(objects[i] for i in shown), tuple(objects[i] for i in hinted), places, said, foils)


def _caption(rng: np.random.Generator, scene: Scene, shown: list[int], in_place: bool) -> tuple[Caption, Caption]:
    """A caption of the objects shown, and its foil: a list of them or, of one among few or many, an expression."""
    chance, index = rng.random(), shown[int(rng.integers(len(shown)))]
    alone = len(shown) == 1 or len(shown) > FEW
    if alone and in_place and chance < 0.25:
        found = position(rng, scene, index)
        if found is not None and found.place is not None:
            phrase, place = _altered(rng, found.phrase), found.place
            if rng.random() < 0.5:
                phrase, place = found.phrase, PLACES[int(rng.integers(len(PLACES)))]
            foil = Caption(placed(rng, noun_phrase(rng, phrase), place), (phrase,), place)
            return Caption(found.sentence, (found.phrase,), found.place), foil
    if alone and chance < 0.55:
        found = relation(rng, scene, index) if len(shown) > FEW and chance < 0.4 else appearance(rng, scene, index)
        if found is not None:
            phrase = _altered(rng, found.phrase)
            return Caption(found.sentence, (found.phrase,)), Caption(
                reworded(rng, found.sentence, found.phrase, phrase), (phrase,)
            )
    count = len(shown) if len(shown) <= FEW else int(rng.integers(1, 4))
    named = [int(i) for i in rng.permutation(shown)[:count]]
    phrases = [description(rng, scene.objects[i]) for i in named]
    others = list(phrases)
    changed = int(rng.integers(len(phrases)))
    others[changed] = _altered(rng, phrases[changed])
    return _listing(rng, phrases), _listing(rng, others)


def _listing(rng: np.random.Generator, phrases: list[Phrase]) -> Caption:
    """The noun phrases joined by "and"."""
    article, opening = ("", "a ", "the ")[int(rng.integers(3))], "a photo of " if rng.random() < 0.15 else ""
    text = opening + " and ".join(article + noun_phrase(rng, phrase) for phrase in phrases)
    return Caption(text, tuple(phrases))


def _altered(rng: np.random.Generator, phrase: Phrase) -> Phrase:
    """The phrase with another value of one thing that it says."""
    said = [name for name in ATTRIBUTES if getattr(phrase, name) is not None]
    name = said[int(rng.integers(len(said)))]
    others = [value for value in _VALUES[name] if value != getattr(phrase, name)]
    return replace(phrase, **{name: others[int(rng.integers(len(others)))]})
