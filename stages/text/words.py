"""Words that say where something is: HybridGL's classes, matched by whole tokens.

``RELATIONS`` compare the target with other objects (left of, above, bigger than), ``POSITIONS`` place it in the
picture. One word can belong to both tables: "left" is a place in the picture and a comparison.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

Classes = Mapping[str, tuple[str, ...]]

RELATIONS: Classes = {
    "left": ("left", "west"),
    "right": ("right", "east"),
    "up": ("above", "north", "top", "back", "behind"),
    "down": ("below", "south", "under", "front"),
    "big": ("bigger", "larger", "closer"),
    "small": ("smaller", "tinier", "further", "smallest"),
    "within": ("inside", "within", "contained"),
}
POSITIONS: Classes = {
    "left": ("left", "leftmost"),
    "right": ("right", "rightmost"),
    "middle": ("middle", "center", "centre", "central"),
    "top": ("top", "upper", "topmost"),
    "bottom": ("bottom", "lower", "bottommost"),
}
KINDS = ("left", "right", "above", "below", "bigger", "smaller", "within", "between")
"""The relations that rules know; a stored relation is a place in this list."""
WORD_KINDS: Mapping[str, str] = {
    **dict.fromkeys(("left", "west", "leftmost", "western"), "left"),
    **dict.fromkeys(("right", "east", "rightmost", "eastern"), "right"),
    **dict.fromkeys(("above", "north", "top", "back", "behind", "over", "atop", "upper", "topmost"), "above"),
    **dict.fromkeys(("below", "south", "under", "front", "beneath", "underneath", "bottom", "lower"), "below"),
    **dict.fromkeys(("bigger", "larger", "closer", "biggest", "largest", "closest"), "bigger"),
    **dict.fromkeys(("smaller", "tinier", "further", "smallest", "tiniest", "furthest"), "smaller"),
    **dict.fromkeys(("inside", "within", "contained"), "within"),
    "between": "between",
}
"""Word -> one of ``KINDS`` (ReCLIP's words, with some of the same meaning); also superlatives and places without an object."""
HYBRID_KINDS: Mapping[str, str] = {"up": "above", "down": "below", "big": "bigger", "small": "smaller"}
"""Class of ``RELATIONS`` -> its name among ``KINDS``; the others have the same name."""
HYBRID_POSITIONS: Classes = {
    "left": ("left",),
    "right": ("right",),
    "middle": ("middle", "between"),
    "top": ("up", "top", "above"),
    "bottom": ("down", "under", "bottom", "low"),
}
"""HybridGL's words of its position prior."""
HYBRID_NONE = frozenset({"part", "image", "side", "picture", "half", "region", "section", "photo"})
"""HybridGL sees no relation where one of these is the root of another noun phrase."""
ORDINALS: Mapping[str, int] = {
    word: number
    for number, words in enumerate(
        (
            ("first", "1st"),
            ("second", "2nd"),
            ("third", "3rd"),
            ("fourth", "4th"),
            ("fifth", "5th"),
            ("sixth", "6th"),
            ("seventh", "7th"),
            ("eighth", "8th"),
            ("ninth", "9th"),
            ("tenth", "10th"),
        ),
        start=1,
    )
    for word in words
}
PLACES = frozenset(
    {word for table in (RELATIONS, POSITIONS) for words in table.values() for word in words}
    | {"side", "corner", "edge", "end", "half", "part"}
)
"""Words that name a place, not an object: a noun phrase of nothing else is no anchor for a relation."""


def classes(tokens: Iterable[str], table: Classes) -> tuple[str, ...]:
    """The classes of ``table`` that lower-case ``tokens`` name, in order of appearance, each once; () for none.

    >>> classes("the larger dog right of the smaller one , on the right".split(), RELATIONS)
    ('big', 'right', 'small')
    """
    class_of = {word: name for name, words in table.items() for word in words}
    return tuple(dict.fromkeys(class_of[token] for token in tokens if token in class_of))
