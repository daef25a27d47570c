"""Made-up referring expressions with the lengths and repetitions of RefCOCO, RefCOCO+ and RefCOCOg."""

from __future__ import annotations

import numpy as np

_HEADS = (
    "man", "guy", "woman", "girl", "boy", "person", "kid", "lady", "player", "chair", "couch", "table", "car",
    "bus", "truck", "bike", "horse", "cow", "sheep", "zebra", "elephant", "giraffe", "bear", "dog", "cat", "bird",
    "pizza", "sandwich", "cake", "donut", "banana", "orange", "broccoli", "bowl", "cup", "plate", "laptop",
    "umbrella", "suitcase", "bench", "boat", "train", "skier", "surfer", "batter", "catcher", "vase", "bottle",
)  # fmt: skip
_LOOKS = (
    "white", "black", "red", "blue", "green", "yellow", "brown", "pink", "big", "small", "tall", "old", "young",
    "blurry", "striped", "wooden", "empty", "standing", "dark",
)  # fmt: skip
_WORN = (
    "shirt", "hat", "jacket", "dress", "tie", "glasses", "shorts", "suit", "helmet", "coat", "jeans",
)  # fmt: skip
_PLACES = (
    "on the left", "on right", "on left", "in the middle", "in front", "in back", "at the top", "at bottom", "far left",
    "closest to us", "second from left", "third from the right", "in the corner", "facing us", "near the edge",
    "on the far right",
)  # fmt: skip
_LINKS = (
    "next to", "behind", "in front of", "holding", "sitting on", "standing by", "with", "near", "looking at",
    "to the left of", "leaning against",
)  # fmt: skip


def expressions(count: int, seed: int = 0) -> list[str]:
    """``count`` lower-case sentences of 1 to 14 words, 4.7 on average; common words and whole sentences come often.

    Half are short with a place, as in RefCOCO; a third name looks only, as in RefCOCO+; the rest are long ones that
    name a second object, as in RefCOCOg.
    """
    rng = np.random.default_rng(seed)
    makers = (_short, _looks, _long)
    return [makers[int(rng.choice(3, p=(0.5, 0.3, 0.2)))](rng) for _ in range(count)]


def _short(rng: np.random.Generator) -> str:
    if rng.random() < 0.3:
        return f"{_pick(rng, ('left', 'right', 'middle', 'top', 'bottom left', 'front'))} {_noun(rng, 0.3)}"
    return f"{_article(rng, 0.3)}{_noun(rng, 0.4)} {_pick(rng, _PLACES)}"


def _looks(rng: np.random.Generator) -> str:
    worn = f" {_pick(rng, ('in', 'with', 'wearing'))} {_pick(rng, _LOOKS)} {_pick(rng, _WORN)}"
    return f"{_article(rng, 0.3)}{_noun(rng, 0.6)}{worn if rng.random() < 0.6 else ''}"


def _long(rng: np.random.Generator) -> str:
    worn = f" wearing {_article(rng, 1)}{_pick(rng, _LOOKS)} {_pick(rng, _WORN)}" if rng.random() < 0.4 else ""
    return f"{_article(rng, 1)}{_noun(rng, 0.6)}{worn} {_pick(rng, _LINKS)} {_article(rng, 1)}{_noun(rng, 0.6)}"


def _noun(rng: np.random.Generator, looks: float) -> str:
    return f"{_pick(rng, _LOOKS)} {_pick(rng, _HEADS)}" if rng.random() < looks else _pick(rng, _HEADS)


def _article(rng: np.random.Generator, share: float) -> str:
    return f"{_pick(rng, ('the', 'a'))} " if rng.random() < share else ""


def _pick(rng: np.random.Generator, options: tuple[str, ...]) -> str:
    """One option; the n-th is taken in proportion to 1 / (n + 2), as words of a language are."""
    odds = 1 / np.arange(2, len(options) + 2)
    return options[int(rng.choice(len(options), p=odds / odds.sum()))]
