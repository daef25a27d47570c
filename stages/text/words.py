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
