"""Relations, places and ordinals of sentences, against HybridGL's release and by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from stages.text.noun_phrase import parse_sentences
from stages.text.relations import NO_SPATIAL, Spatial
from stages.text.spacy_model import load_spacy
from stages.text.words import HYBRID_KINDS, KINDS, POSITIONS, WORD_KINDS

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "relations.json").read_text("utf-8"))
PLACES = tuple(POSITIONS)
PROBES = [(text, row) for rows in GOLDEN["word_probe"].values() for text, row in rows.items()]


@pytest.fixture(scope="module")
def nlp() -> Any:
    return load_spacy("en_core_web_sm")


def spatial(nlp: Any, sentence: str) -> Spatial:
    return parse_sentences(nlp, [sentence])[0].spatial


def names(found: Spatial) -> tuple[str, str]:
    relation, position = found.hybrid
    return ("none" if relation < 0 else KINDS[relation], "none" if position < 0 else PLACES[position])


@pytest.mark.parametrize(("text", "row"), PROBES + [(row["text"], row) for row in GOLDEN["scene"]["rows"]])
def test_hybrid_words_are_the_releases(nlp: Any, text: str, row: dict[str, Any]) -> None:
    """Its "right" never fires, because a word is compared with a set; ours is the relation that it would be."""
    relation, position = row["relation_if_right_worked"], row["position"]
    expected = (HYBRID_KINDS.get(relation, relation), {"up": "top", "down": "bottom"}.get(position, position))
    assert names(spatial(nlp, text)) == expected


@pytest.mark.parametrize("row", GOLDEN["scene"]["rows"], ids=lambda row: row["text"])
def test_other_phrases_are_the_releases(nlp: Any, row: dict[str, Any]) -> None:
    assert list(parse_sentences(nlp, [row["text"]])[0].other_phrases) == row["other_phrases"]


@pytest.mark.parametrize(
    ("sentence", "relations", "places", "ordinal"),
    [
        ("the dog", [], [], None),
        ("cup on the right", [("target", "right")], ["right"], None),
        ("the cup left of the spoon", [("target", "left", "the spoon")], [], None),
        ("the red star that is to the left of the blue circle", [("target", "left", "the blue circle")], [], None),
        ("the star on the left side of the plain ring", [("target", "left", "the plain ring")], [], None),
        ("the cup on the right hand side", [("target", "right")], ["right"], None),
        ("the chair below the window", [("target", "below", "the window")], [], None),
        ("man in front of the car", [("target", "below", "the car")], [], None),
        ("the star that is bigger than the circle", [("target", "bigger", "the circle")], [], None),
        ("the smallest spoon next to the plate", [("target", "smaller")], [], None),
        ("the cup between two plates", [("target", "between", "two plates")], [], None),
        ("the cup between the plate and the spoon", [("target", "between", "the plate", "the spoon")], [], None),
        (
            "dog on top of the table left of the couch",
            [("target", "above", "the table"), ("the table", "left", "the couch")],
            [],
            None,
        ),
        ("the man on the left holding a bigger bag", [("target", "left"), ("a bigger bag", "bigger")], ["left"], None),
        ("top right corner pizza", [("target", "above"), ("target", "right")], ["right", "top"], None),
        (
            "the right cat behind the left chair",
            [("target", "right"), ("target", "above", "the left chair"), ("the left chair", "left")],
            ["right"],
            None,
        ),
        ("middle zebra", [], ["middle"], None),
        ("second from left", [], [], (2, "left")),
        ("3rd man from the right", [], [], (3, "right")),
        ("the second star from the top", [], [], (2, "top")),
        ("first one on the left", [], [], (1, "left")),
        ("the second man", [], [], None),
    ],
)
def test_sentences(
    nlp: Any, sentence: str, relations: list[tuple[str, ...]], places: list[str], ordinal: tuple[int, str] | None
) -> None:
    parsed = parse_sentences(nlp, [sentence])[0]
    entity = {-1: "target", **dict(enumerate(parsed.other_phrases))}
    found = [
        (entity[subject], KINDS[kind], *(entity[o] for o in objects if o >= 0))
        for subject, kind, *objects in parsed.spatial.relations
    ]
    assert found == relations
    assert [name for name, named in zip(PLACES, parsed.spatial.position, strict=True) if named] == places
    n, direction = parsed.spatial.ordinal
    assert ((n, PLACES[direction]) if n else None) == ordinal


def test_sentences_without_words_of_place_have_none(nlp: Any) -> None:
    for sentence in ("", " ", "a dog", "red", "the woman in a hat that is red"):
        assert spatial(nlp, sentence) == NO_SPATIAL


def test_every_word_names_a_relation(nlp: Any) -> None:
    """A word of each kind fires, "right" and "east" among them."""
    assert set(WORD_KINDS.values()) == set(KINDS)
    for word, kind in WORD_KINDS.items():
        found = spatial(nlp, f"cup {word} the plate").relations or spatial(nlp, f"the {word} cup").relations
        assert kind in {KINDS[row[1]] for row in found}, word
