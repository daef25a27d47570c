"""Training pairs for RefShapes' CLIP: single objects cut out by good and bad masks, and whole scenes, with captions.

Images are prepared by the pipeline's own code (reference preprocessing), but for the first resize of the short side,
which says little here and costs much.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageFilter
from torch import Tensor

from demo.captions import Expression, Phrase, appearance, description, noun_phrase, position, relation
from demo.scenes import COLOURS, FILLINGS, SHAPES, SIZES, Mask, Scene, SceneObject
from stages.visual.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess, crop_windows

SIDE = 112  # input pixels of the CLIP
_PREPROCESS = Preprocess(IMAGENET_MEAN, IMAGENET_STD, antialias=False, short_side=240, fill="reference")
_VALUES = {"shape": SHAPES, "colour": tuple(COLOURS), "filling": FILLINGS, "size": tuple(SIZES)}

WHOLE, SCENE, PART, AROUND, BACKGROUND = range(5)  # what an image shows, and what a caption speaks of
_SPOILT_WORDS = {PART: ("part of ", "a piece of ", "half of "), AROUND: ("background around ", "background and ")}


@dataclass(frozen=True)
class Caption:
    """What is said, and its meaning: the kind of image it speaks of, a phrase for each object it names."""

    text: str
    kind: int
    phrases: tuple[Phrase, ...]


@dataclass(frozen=True)
class Sample:
    """One image, float32 (3, SIDE, SIDE), the objects it shows, a true caption, and a foil: nearly the same, but false.

    The kind of the image is that of its caption.
    """

    pixels: Tensor
    objects: tuple[SceneObject, ...]
    caption: Caption
    foil: Caption


def normalised(image: Image.Image) -> Tensor:
    """RGB image -> ImageNet-normalised float32 (3, H, W) of the same size."""
    return replace(_PREPROCESS, short_side=min(image.size)).prepare(image, torch.device("cpu")).tensor


def cut_out(pixels: Tensor, mask: Mask, fill: bool = True, jitter: npt.NDArray[np.intp] | None = None) -> Tensor:
    """The object in its mask's box, (3, SIDE, SIDE), with `fill` beyond the mask; `jitter` (4,) moves the box's ends."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    window = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
    if jitter is not None:
        window = window + jitter
    windows = crop_windows(window[None].astype(np.float64), *mask.shape)
    shown = mask if fill else np.ones_like(mask)
    return _PREPROCESS.local_views(pixels, shown[None], windows, (SIDE, SIDE))[0]


def samples(rng: np.random.Generator, scene: Scene, crops: int) -> list[Sample]:
    """One sample of the whole scene and `crops` of masks in it."""
    pixels = normalised(scene.image)
    return [_scene_sample(rng, scene, pixels), *(_crop_sample(rng, scene, pixels) for _ in range(crops))]


def truths(captions: list[Caption], batch: list[Sample]) -> npt.NDArray[np.bool_]:
    """Bool (C, N): caption i is true of image j. A crop's caption must name all that the crop shows."""
    said = np.array([_codes(phrase) for caption in captions for phrase in caption.phrases])
    shown = np.array([_codes(item) for sample in batch for item in sample.objects])
    phrase_counts = np.array([len(caption.phrases) for caption in captions])
    object_counts = np.array([len(sample.objects) for sample in batch])
    spoken, seen = np.array([caption.kind for caption in captions]), np.array([sample.caption.kind for sample in batch])
    fits = ((said[:, None] == -1) | (said[:, None] == shown[None])).all(axis=2)
    fits = np.logical_or.reduceat(fits, np.cumsum(object_counts) - object_counts, axis=1)
    fits = np.logical_and.reduceat(fits, np.cumsum(phrase_counts) - phrase_counts, axis=0)
    plain = (WHOLE, SCENE)
    same_kind = (spoken[:, None] == seen) | (np.isin(spoken, plain)[:, None] & np.isin(seen, plain))
    complete = (seen == SCENE) | (phrase_counts[:, None] == object_counts)
    return np.asarray(same_kind & complete & fits)


def _codes(item: Phrase | SceneObject) -> list[int]:
    said = ((getattr(item, name), values) for name, values in _VALUES.items())
    return [-1 if value is None else values.index(value) for value, values in said]


def _scene_sample(rng: np.random.Generator, scene: Scene, pixels: Tensor) -> Sample:
    squashed = _PREPROCESS.resize(pixels[None], (SIDE, SIDE))[0]
    named = [int(i) for i in rng.permutation(len(scene.objects))[: int(rng.integers(1, 4))]]
    if len(named) == 1 and rng.random() < 0.5:
        caption = _expression(rng, scene, named[0], SCENE)
    else:
        caption = _listing(rng, [description(rng, scene.objects[i]) for i in named], SCENE)
    return Sample(squashed, tuple(scene.objects), caption, _foil(rng, caption))


def _crop_sample(rng: np.random.Generator, scene: Scene, pixels: Tensor) -> Sample:
    index = int(rng.integers(len(scene.objects)))
    item, chance = scene.objects[index], rng.random()
    if chance < 0.12:
        crop, caption = cut_out(pixels, part_of(rng, item.mask)), _listing(rng, [description(rng, item)], PART)
    elif chance < 0.20:
        crop, caption = cut_out(pixels, beyond(rng, item.mask)), _listing(rng, [description(rng, item)], AROUND)
    elif chance < 0.24:
        crop, caption = (
            cut_out(pixels, background(rng, scene)),
            Caption(_background_words(rng), BACKGROUND, (Phrase(),)),
        )
        return Sample(crop, (item,), caption, _listing(rng, [description(rng, item)], WHOLE))
    elif chance < 0.32:
        other = scene.objects[(index + int(rng.integers(1, len(scene.objects)))) % len(scene.objects)]
        caption = _listing(rng, [description(rng, item), description(rng, other)], WHOLE)
        return Sample(cut_out(pixels, item.mask | other.mask), (item, other), caption, _foil(rng, caption))
    else:
        mask = item.mask if rng.random() < 0.5 else roughened(rng, item.mask)
        crop = cut_out(pixels, mask, fill=rng.random() < 0.9, jitter=rng.integers(-3, 4, 4))
        caption = _expression(rng, scene, index, WHOLE)
    return Sample(crop, (item,), caption, _foil(rng, caption))


def _expression(rng: np.random.Generator, scene: Scene, index: int, kind: int) -> Caption:
    """A caption about one object: mostly a plain noun phrase, else a referring expression of any family."""
    chance = rng.random()
    found: Expression | None = None
    if chance < 0.12:
        found = appearance(rng, scene, index)
    elif chance < 0.24:
        found = position(rng, scene, index)
    elif chance < 0.38:
        found = relation(rng, scene, index)
    if found is None:
        return _listing(rng, [description(rng, scene.objects[index])], kind)
    return Caption(found.sentence, kind, (found.phrase,))


def _listing(rng: np.random.Generator, phrases: list[Phrase], kind: int) -> Caption:
    """The noun phrases joined by "and", with the words for what is wrong with the crop, if anything."""
    article = ("", "a ", "the ")[int(rng.integers(3))]
    text = " and ".join(article + noun_phrase(rng, phrase) for phrase in phrases)
    openings = _SPOILT_WORDS.get(kind, ("", "", "", "", "a photo of "))
    return Caption(openings[int(rng.integers(len(openings)))] + text, kind, tuple(phrases))


def _foil(rng: np.random.Generator, caption: Caption) -> Caption:
    """A caption like the given one with one word of one phrase changed; it may by chance still be true."""
    phrases = list(caption.phrases)
    chosen = int(rng.integers(len(phrases)))
    said = [name for name in _VALUES if getattr(phrases[chosen], name) is not None]
    name = said[int(rng.integers(len(said)))]
    others = [value for value in _VALUES[name] if value != getattr(phrases[chosen], name)]
    phrases[chosen] = replace(phrases[chosen], **{name: others[int(rng.integers(len(others)))]})
    return _listing(rng, phrases, caption.kind)


def _background_words(rng: np.random.Generator) -> str:
    return ("background", "the background", "empty background", "nothing")[int(rng.integers(4))]


def roughened(rng: np.random.Generator, mask: Mask) -> Mask:
    """The mask as a network would find it: blurred by a few pixels and cut at a random level."""
    plane = Image.fromarray(mask.astype(np.uint8) * np.uint8(255)).filter(ImageFilter.BoxBlur(rng.uniform(1.5, 6)))
    rough: Mask = np.asarray(plane) > rng.uniform(70, 180)
    alike = 2 * np.count_nonzero(rough & mask) > np.count_nonzero(rough | mask)
    return rough if alike else mask  # thin shapes may all but vanish


def part_of(rng: np.random.Generator, mask: Mask) -> Mask:
    """A quarter to 60 % of the mask: what lies on one side of a line through it."""
    rows, columns = np.nonzero(mask)
    angle = rng.uniform(0, 2 * np.pi)
    along = rows * np.sin(angle) + columns * np.cos(angle)
    kept = along <= np.quantile(along, rng.uniform(0.25, 0.6))
    part = np.zeros_like(mask)
    part[rows[kept], columns[kept]] = True
    return part


def beyond(rng: np.random.Generator, mask: Mask) -> Mask:
    """The mask and at least as much of what surrounds it, on one side."""
    rows, columns = np.nonzero(mask)
    reach = rng.uniform(0.7, 1.3) * np.sqrt(len(rows))
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.ogrid[0 : mask.shape[0], 0 : mask.shape[1]]
    away = np.hypot(y - rows.mean() - 0.6 * reach * np.sin(angle), x - columns.mean() - 0.6 * reach * np.cos(angle))
    return np.asarray(mask | (away < reach))


def background(rng: np.random.Generator, scene: Scene) -> Mask:
    """Some of the background: a rectangle of it, without the objects."""
    free: Mask = ~np.logical_or.reduce([item.mask for item in scene.objects])
    height, width = free.shape
    window = np.zeros_like(free)
    h, w = (int(rng.integers(50, side)) for side in (height, width))
    top, left = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
    window[top : top + h, left : left + w] = True
    return window & free if (window & free).any() else free
