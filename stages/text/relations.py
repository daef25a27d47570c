"""Relations, places, superlatives and ordinals of a parsed sentence, as numbers that rules read.

An entity is the target (-1) or one of the other noun phrases (0, 1, ...). A relation is a row (subject, kind, object, second
object): ``kind`` a place in ``words.KINDS``; -1 for no object, where the word stands alone: a superlative, a comparative
or a place ("the bigger dog", "cup on the left").

The path from a noun phrase up the heads of its root to the entity above it holds the words of their relation (ReCLIP,
Subramanian et al., ACL 2022, sec. 3.2). A relation word on no such path belongs to the entity that it stands in, or below.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from stages.text.words import (
    HYBRID_KINDS,
    HYBRID_NONE,
    HYBRID_POSITIONS,
    KINDS,
    ORDINALS,
    POSITIONS,
    RELATIONS,
    WORD_KINDS,
)

if TYPE_CHECKING:
    from spacy.tokens import Doc, Span, Token

TARGET, NOTHING = -1, -1
Relation = tuple[int, int, int, int]
_PLACE_NAMES = tuple(POSITIONS)
_PLACE_OF = {word: name for name, words in POSITIONS.items() for word in words}
_DIRECTION_OF = {**_PLACE_OF, "west": "left", "east": "right", "north": "top", "south": "bottom"}
_WORDS = frozenset({*WORD_KINDS, *_DIRECTION_OF, *(word for words in HYBRID_POSITIONS.values() for word in words)})
_HYBRID_RELATION_OF = {word: HYBRID_KINDS.get(name, name) for name, words in RELATIONS.items() for word in words}
_HYBRID_POSITION_OF = {word: name for name, words in HYBRID_POSITIONS.items() for word in words}
_TOWARD = frozenset({"from", "on", "at", "in", "to"})


class Spatial(NamedTuple):
    """What a sentence says of places and relations.

    Attributes:
        relations: (subject, kind, object, second object), see above, in the order of their words.
        position: for each class of ``words.POSITIONS`` whether a word of it, alone, places the target.
        ordinal: (n, direction): the n-th from that class of ``words.POSITIONS``, n from 1; (0, -1) for none.
        hybrid: HybridGL's one relation (place in ``words.KINDS``) and one position (place in ``words.POSITIONS``), -1 for none.
    """

    relations: tuple[Relation, ...]
    position: tuple[bool, ...]
    ordinal: tuple[int, int]
    hybrid: tuple[int, int]


NO_SPATIAL = Spatial((), (False,) * len(POSITIONS), (0, NOTHING), (NOTHING, NOTHING))


def spatial(
    doc: Doc, words: Sequence[str], target: Span | None, chunks: Sequence[Span], others: Mapping[str, int]
) -> Spatial:
    """Read off a parsed sentence.

    Args:
        words: the lower-case tokens. target: the noun chunk of the target, None where it is the sentence.
        chunks: all noun chunks. others: text of each other phrase -> its place among them.
    """
    if _WORDS.isdisjoint(words):
        return NO_SPATIAL
    ordinal, used = _ordinal(words)
    entity = _entities(doc, target, chunks, others)
    relations: dict[int, Relation] = {}
    for chunk in chunks:
        if chunk.text not in others or entity[chunk.root.i] != others[chunk.text]:
            continue
        path, subject = _path(chunk.root, entity)
        named = [i for i in sorted(path) if words[i] in WORD_KINDS and i not in used]
        used |= {i for i in path if words[i] in _PLACE_OF}
        if named:
            kind = KINDS.index(WORD_KINDS[words[named[0]]])
            row = (
                subject,
                kind,
                others[chunk.text],
                _second(chunk.root, entity) if words[named[0]] == "between" else NOTHING,
            )
            relations.setdefault(named[0], row)
            used |= set(named)
    position = [False] * len(_PLACE_NAMES)
    for i, word in enumerate(words):
        if i in used or (word not in WORD_KINDS and word not in _PLACE_OF):
            continue
        owner = _owner(doc[i], entity)
        if word in WORD_KINDS and WORD_KINDS[word] not in ("within", "between"):
            relations[i] = (owner, KINDS.index(WORD_KINDS[word]), NOTHING, NOTHING)
        if word in _PLACE_OF and owner == TARGET:
            position[_PLACE_NAMES.index(_PLACE_OF[word])] = True
    return Spatial(
        tuple(dict.fromkeys(relations[i] for i in sorted(relations))),
        tuple(position),
        ordinal,
        _hybrid(doc, words, target, chunks),
    )


def _ordinal(words: Sequence[str]) -> tuple[tuple[int, int], set[int]]:
    """(n, direction) of "second from left", "3rd man on the right", and the tokens that say so."""
    for i, word in enumerate(words):
        if word not in ORDINALS:
            continue
        for j in range(i + 1, min(i + 8, len(words))):
            before = words[max(i + 1, j - 2) : j]
            if words[j] in _DIRECTION_OF and _TOWARD & set(before):
                direction = _PLACE_NAMES.index(_DIRECTION_OF[words[j]])
                return (
                    ((0, NOTHING), set()) if words[j] in POSITIONS["middle"] else ((ORDINALS[word], direction), {i, j})
                )
    return (0, NOTHING), set()


def _entities(doc: Doc, target: Span | None, chunks: Sequence[Span], others: Mapping[str, int]) -> list[int | None]:
    """Of each token the entity whose noun phrase it stands in, None for none."""
    entity: list[int | None] = [None] * len(doc)
    for chunk in chunks:
        number = TARGET if target is not None and chunk.start == target.start else others.get(chunk.text)
        entity[chunk.start : chunk.end] = [number] * (chunk.end - chunk.start)
    return entity


def _path(root: Token, entity: Sequence[int | None]) -> tuple[set[int], int]:
    """The tokens above a phrase's root up to the next entity, and that entity; the target where there is none."""
    path: set[int] = set()
    token, own = root, entity[root.i]
    while token.head.i != token.i:
        token = token.head
        above: int | None = entity[token.i]
        if above is not None and above != own:
            return path, above
        path.add(token.i)
        path |= {child.i for child in token.lefts if entity[child.i] is None}  # "on the left side of"
    return path, TARGET


def _second(root: Token, entity: Sequence[int | None]) -> int:
    """The entity that is joined to a phrase's root: "between the dog and the cat"."""
    for child in root.children:
        joined: int | None = entity[child.i]
        if child.dep_ == "conj" and joined is not None and joined not in (TARGET, entity[root.i]):
            return joined
    return NOTHING


def _owner(token: Token, entity: Sequence[int | None]) -> int:
    """The entity that a token stands in or below; the target where there is none."""
    while True:
        own: int | None = entity[token.i]
        if own is not None:
            return own
        if token.head.i == token.i:
            return TARGET
        token = token.head


def _hybrid(doc: Doc, words: Sequence[str], target: Span | None, chunks: Sequence[Span]) -> tuple[int, int]:
    """HybridGL's relation and position: of each table the word whose head stands first, the first word on ties.

    The release compares a word with a set, so that its "right" is never a relation; here it is one.
    """
    relation = _first(doc, words, _HYBRID_RELATION_OF)
    if relation is not None and any(
        c.root.lower_ in HYBRID_NONE for c in chunks if target is None or c.text != target.text
    ):
        relation = None
    kind = NOTHING if relation is None else KINDS.index(relation)
    position = _first(doc, words, _HYBRID_POSITION_OF)
    return kind, NOTHING if position is None else _PLACE_NAMES.index(position)


def _first(doc: Doc, words: Sequence[str], name_of: Mapping[str, str]) -> str | None:
    found = [i for i, word in enumerate(words) if word in name_of]
    if not found:
        return None
    return name_of[words[found[0] if len(found) == 1 else min(found, key=lambda i: doc[i].head.i)]]
