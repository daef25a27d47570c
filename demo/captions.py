"""The language of RefShapes: expressions that single out one object of a scene.

Meaning comes first: an expression is made only if it is plainly true of its target and not even loosely true of any
other object, so that a reader with a different idea of "left" still finds the same one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise, product

import numpy as np

from demo.scenes import Scene, SceneObject

_SYNONYMS = {
    "small": ("small", "small", "little"),
    "large": ("large", "large", "big"),
    "solid": ("solid", "plain"),
    "striped": ("striped",),
    "dotted": ("dotted", "spotted"),
}
ATTRIBUTES = ("shape", "colour", "filling", "size")
_PLAIN, _LOOSE = 0.08, -0.04  # slack of a place: the target lies well inside, others not even near (in image sides)


@dataclass(frozen=True)
class Phrase:
    """What a noun phrase says of an object; None where it says nothing."""

    shape: str | None = None
    colour: str | None = None
    filling: str | None = None
    size: str | None = None

    def fits(self, item: SceneObject) -> bool:
        said = ((getattr(self, name), getattr(item, name)) for name in ATTRIBUTES)
        return all(wanted is None or wanted == seen for wanted, seen in said)


@dataclass(frozen=True)
class Expression:
    """A lower-case sentence without punctuation, what its noun phrase says of its target, and the place it tells."""

    sentence: str
    phrase: Phrase
    place: str | None = None


def appearance(rng: np.random.Generator, scene: Scene, target: int) -> Expression | None:
    """An expression by looks alone, such as "the small striped star"; None if looks do not tell the target apart."""
    phrase = _telling_phrase(rng, scene, target, list(range(len(scene.objects))))
    if phrase is None:
        return None
    return Expression(_maybe_the(rng, noun_phrase(rng, phrase)), phrase)


def position(rng: np.random.Generator, scene: Scene, target: int) -> Expression | None:
    """An expression with a position word, such as "red circle on the left"; None if no place tells the target apart."""
    places = [place for place in _PLACES if _PLACES[place](*_relative(scene, target), _PLAIN)]
    while places:
        place = places.pop(int(rng.integers(len(places))))
        rivals = [i for i in range(len(scene.objects)) if _PLACES[place](*_relative(scene, i), _LOOSE)]
        phrase = _telling_phrase(rng, scene, target, rivals, prefer_vague=True)
        if phrase is not None:
            return Expression(placed(rng, noun_phrase(rng, phrase), place), phrase, place)
    return None


def relation(rng: np.random.Generator, scene: Scene, target: int) -> Expression | None:
    """One long sentence that names a second object: "the red star that is to the left of the large blue circle"."""
    everything = list(range(len(scene.objects)))
    options = [(word, anchor) for word, anchor in product(_RELATIONS, everything) if anchor != target]
    for word, anchor in (options[i] for i in rng.permutation(len(options))):
        holds = _RELATIONS[word]
        if not holds(scene, target, anchor, True):
            continue
        rivals = [target, *(i for i in everything if i not in (target, anchor) and holds(scene, i, anchor, False))]
        anchor_phrase = _telling_phrase(rng, scene, anchor, everything)
        phrase = _telling_phrase(rng, scene, target, rivals, prefer_vague=True)
        if phrase is not None and anchor_phrase is not None:
            head, tail = noun_phrase(rng, phrase), noun_phrase(rng, anchor_phrase)
            return Expression(f"the {head}{_pick(rng, _LINKS[word])}the {tail}", phrase)
    return None


def ordinal(rng: np.random.Generator, scene: Scene, target: int) -> Expression | None:
    """An expression that counts, such as "the second red circle from the left"; None if the target's place is not plain.

    What is counted fits two objects at least, and those lie plainly apart along the axis that is counted on.
    """
    options = []
    for phrase in _vague_phrases(scene, target):
        fitting = [i for i, item in enumerate(scene.objects) if phrase.fits(item)]
        for place, (axis, sign) in _COUNTED_FROM.items():
            along = sorted((sign * _relative(scene, i)[axis], i) for i in fitting)
            number = [i for _, i in along].index(target)
            apart = all(right - left > _PLAIN for (left, _), (right, _) in pairwise(along))
            if apart and number < len(_ORDINALS):
                options.append((phrase, _ORDINALS[number], place))
    if not options:
        return None
    phrase, word, place = options[int(rng.integers(len(options)))]
    return Expression(f"{_maybe_the(rng, f'{word} {noun_phrase(rng, phrase)}')} from the {place}", phrase)


def _vague_phrases(scene: Scene, target: int) -> list[Phrase]:
    """The phrases of one or two attributes, shape among them, that fit the target and another object."""
    item = scene.objects[target]
    phrases = [Phrase(shape=item.shape)]
    phrases += [Phrase(shape=item.shape, **{name: getattr(item, name)}) for name in ATTRIBUTES[1:]]
    return [phrase for phrase in phrases if sum(map(phrase.fits, scene.objects)) > 1]


_ORDINALS = ("first", "second", "third", "fourth")
_COUNTED_FROM = {"left": (0, 1), "right": (0, -1), "top": (1, 1), "bottom": (1, -1)}
"""Word -> axis (0 = x, 1 = y) and direction."""


def noun_phrase(rng: np.random.Generator, phrase: Phrase) -> str:
    """The phrase in words without an article: size, filling and colour (at times swapped), noun."""
    filling_colour = [_word(rng, value) for value in (phrase.filling, phrase.colour) if value is not None]
    if rng.random() < 0.25:
        filling_colour.reverse()
    noun = phrase.shape if phrase.shape is not None else _pick(rng, ("thing", "shape", "object"))
    size = [] if phrase.size is None else [_word(rng, phrase.size)]
    return " ".join([*size, *filling_colour, noun])


def description(rng: np.random.Generator, item: SceneObject) -> Phrase:
    """A phrase that is true of `item` and says two to four things, its shape nearly always."""
    kept = {name: getattr(item, name) for name in ATTRIBUTES if rng.random() < (0.95 if name == "shape" else 0.75)}
    return Phrase(**(kept if len(kept) > 1 else {"shape": item.shape, "colour": item.colour}))


def reworded(rng: np.random.Generator, sentence: str, said: Phrase, meant: Phrase) -> str:
    """The sentence that says `said`, with its words for what differs changed to those of `meant`."""
    words = sentence.split()
    for name in ATTRIBUTES:
        old, new = getattr(said, name), getattr(meant, name)
        if old != new:
            at = next(i for i, word in enumerate(words) if word in _SYNONYMS.get(old, (old,)))
            words[at] = _word(rng, new)
    return " ".join(words)


def loose_places(scene: Scene, index: int) -> list[bool]:
    """Which of PLACES an object may be said to lie in."""
    return [_PLACES[place](*_relative(scene, index), _LOOSE) for place in PLACES]


def _telling_phrase(
    rng: np.random.Generator, scene: Scene, target: int, rivals: list[int], prefer_vague: bool = False
) -> Phrase | None:
    """A random phrase that fits the target and none of `rivals`; `prefer_vague`: likelier one that needs the rest."""
    item, others = scene.objects[target], [scene.objects[i] for i in rivals if i != target]
    phrases, weights = [], []
    for said in product((True, False), repeat=len(ATTRIBUTES)):
        if not any(said):
            continue
        kept = (name for name, is_said in zip(ATTRIBUTES, said, strict=True) if is_said)
        phrase = Phrase(**{name: getattr(item, name) for name in kept})
        if any(phrase.fits(other) for other in others):
            continue
        vague = sum(phrase.fits(other) for other in scene.objects) > 1
        phrases.append(phrase)
        weights.append((1.0 if phrase.shape else 0.12) * 0.6 ** sum(said) * (4.0 if prefer_vague and vague else 1.0))
    if not phrases:
        return None
    return phrases[int(rng.choice(len(phrases), p=np.array(weights) / sum(weights)))]


def _relative(scene: Scene, index: int) -> tuple[float, float]:
    x, y = scene.objects[index].centre
    return x / scene.image.width, y / scene.image.height


# Place -> (x, y in [0, 1], slack): whether that point lies in the place, `slack` image sides inside its border.
_PLACES: dict[str, Callable[[float, float, float], bool]] = {
    "left": lambda x, y, slack: x < 0.5 - slack,
    "right": lambda x, y, slack: x > 0.5 + slack,
    "top": lambda x, y, slack: y < 0.5 - slack,
    "bottom": lambda x, y, slack: y > 0.5 + slack,
    "top left": lambda x, y, slack: max(x, y) < 0.5 - slack,
    "top right": lambda x, y, slack: max(1 - x, y) < 0.5 - slack,
    "bottom left": lambda x, y, slack: max(x, 1 - y) < 0.5 - slack,
    "bottom right": lambda x, y, slack: max(1 - x, 1 - y) < 0.5 - slack,
    "middle": lambda x, y, slack: max(abs(x - 0.5), abs(y - 0.5)) < 0.2 - slack,
}
PLACES = tuple(_PLACES)


def placed(rng: np.random.Generator, noun: str, place: str) -> str:
    """The noun phrase with its place in one of the usual wordings."""
    tails: tuple[str, ...]
    heads: tuple[str, ...]
    if place == "middle":
        tails, heads = ("in the middle", "in the center"), ("middle", "center")
    elif " " in place:
        tails, heads = (f"in the {place} corner", f"on the {place}", place), (place, place.replace("top", "upper"))
    elif place in ("left", "right"):
        tails, heads = (f"on the {place}", f"on the {place} side", f"to the {place}"), (place,)
    else:
        tails, heads = (f"at the {place}", f"near the {place}"), (place,)
    if rng.random() < 0.35:
        return _maybe_the(rng, f"{_pick(rng, heads)} {noun}")
    return f"{_maybe_the(rng, noun)} {_pick(rng, tails)}"


def _beside(scene: Scene, item: int, anchor: int, plain: bool, axis: int, sign: int) -> bool:
    """Whether `item` lies beyond `anchor` along `sign` * axis (0 = x, 1 = y), clearly so if `plain`."""
    shift = [a - b for a, b in zip(scene.objects[item].centre, scene.objects[anchor].centre, strict=True)]
    along, across = sign * shift[axis], abs(shift[1 - axis])
    return along > max(30.0, across) if plain else along > -8.0


def _behind(scene: Scene, item: int, anchor: int, plain: bool) -> bool:
    hidden = scene.objects[item]
    return hidden.hidden_by == (anchor,) and hidden.visible < 0.93 if plain else anchor in hidden.hidden_by


def _bigger(scene: Scene, item: int, anchor: int, plain: bool) -> bool:
    """By size and by visible area alike if `plain`, else by either."""
    larger, smaller = scene.objects[item], scene.objects[anchor]
    by_size = larger.size == "large" and smaller.size == "small"
    ratio = float(np.count_nonzero(larger.mask) / np.count_nonzero(smaller.mask))
    return by_size and ratio > 1.6 if plain else by_size or ratio > 0.9


# Relation -> (scene, item, anchor, plain): whether it holds, plainly or at least loosely.
_RELATIONS: dict[str, Callable[[Scene, int, int, bool], bool]] = {
    "left": lambda scene, item, anchor, plain: _beside(scene, item, anchor, plain, 0, -1),
    "right": lambda scene, item, anchor, plain: _beside(scene, item, anchor, plain, 0, 1),
    "above": lambda scene, item, anchor, plain: _beside(scene, item, anchor, plain, 1, -1),
    "below": lambda scene, item, anchor, plain: _beside(scene, item, anchor, plain, 1, 1),
    "behind": _behind,
    "in front": lambda scene, item, anchor, plain: _behind(scene, anchor, item, plain),
    "bigger": _bigger,
}
_LINKS = {
    "left": (" to the left of ", " that is to the left of ", " on the left side of "),
    "right": (" to the right of ", " that is to the right of ", " on the right side of "),
    "above": (" above ", " that is above ", " placed above "),
    "below": (" below ", " that is below ", " placed under "),
    "behind": (" behind ", " that is behind ", " partly hidden by "),
    "in front": (" in front of ", " that is in front of ", " that partly covers "),
    "bigger": (" that is bigger than ", " that is larger than "),
}


def _word(rng: np.random.Generator, value: str) -> str:
    return _pick(rng, _SYNONYMS.get(value, (value,)))


def _maybe_the(rng: np.random.Generator, noun: str) -> str:
    return f"the {noun}" if rng.random() < 0.5 else noun


def _pick(rng: np.random.Generator, options: tuple[str, ...]) -> str:
    return options[int(rng.integers(len(options)))]
