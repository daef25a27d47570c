"""What the encoders read of an expression: its clean sentence and the noun phrase of its target (paper sec. 3.4).

The rules are the released code's, oddities included, because a different phrase is a different feature: the sentence is
lower-cased and tokenised, tokens equal to one space are dropped, the rest is joined by one space ("isn't" becomes
"is n't"), and that joined text is parsed again. The target's root is the last token that is its own head, so of several
sentences the last one wins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from stages.text.relations import NO_SPATIAL, Spatial, spatial
from stages.text.words import PLACES, POSITIONS, RELATIONS, classes

if TYPE_CHECKING:
    from spacy.language import Language
    from spacy.tokens import Doc, Span, Token

BLANK = "blank sentence"
_SUBJECTS = ("nsubj", "nsubjpass")


@dataclass(frozen=True, slots=True)
class Parsed:
    """An expression as parsed.

    Attributes:
        sentence: clean sentence; "" where the expression has no token but single spaces.
        noun_phrase: the target's noun phrase, or the whole sentence where the rules find none.
        other_phrases: noun phrases that name other objects, in order, each once.
        position_words: classes of ``words.POSITIONS`` named anywhere in the sentence, in order, each once.
        relation_words: classes of ``words.RELATIONS``, likewise.
        status: "" or why the expression has no text.
        spatial: relations, places and ordinals as numbers.
    """

    sentence: str
    noun_phrase: str
    other_phrases: tuple[str, ...]
    position_words: tuple[str, ...]
    relation_words: tuple[str, ...]
    status: str
    spatial: Spatial = NO_SPATIAL


def clean_sentence(nlp: Language, sentence: str) -> str:
    """The sentence as CLIP reads it. Only spaCy's tokeniser runs: its English pipelines never change the tokens."""
    return " ".join(token.text for token in nlp.make_doc(sentence.lower()) if token.text != " ")


def target_noun_phrase(nlp: Language, sentence: str) -> tuple[str, str]:
    """Clean sentence and noun phrase of the target.

    The phrase is the noun chunk that holds the root; else the one that holds the root's first child; else the whole
    clean sentence. An empty or blank sentence, for which the released code raises, gives ("", "").
    """
    parsed = parse_sentences(nlp, [sentence])[0]
    return parsed.sentence, parsed.noun_phrase


def parse_sentences(nlp: Language, sentences: Sequence[str], batch: int = 256) -> list[Parsed]:
    """Every sentence parsed, in order, ``batch`` at a time; [] for none. The batch size changes no result."""
    cleaned = [clean_sentence(nlp, sentence) for sentence in sentences]
    return [_parsed(doc) for doc in nlp.pipe(cleaned, batch_size=batch)]


def _parsed(doc: Doc) -> Parsed:
    if not len(doc):
        return Parsed("", "", (), (), (), BLANK)
    root = [token for token in doc if token.head.i == token.i][-1]
    chunks = list(doc.noun_chunks)
    target = _target(root, chunks)
    tokens = [token.lower_ for token in doc]
    others = tuple(dict.fromkeys(c.text for c in chunks if _is_other(c, target, root)))
    return Parsed(
        sentence=doc.text,
        noun_phrase=doc.text if target is None else target.text,
        other_phrases=others,
        position_words=classes(tokens, POSITIONS),
        relation_words=classes(tokens, RELATIONS),
        status="" if doc.text.strip() else BLANK,
        spatial=spatial(doc, tokens, target, chunks, {text: place for place, text in enumerate(others)}),
    )


def _target(root: Token, chunks: Sequence[Span]) -> Span | None:
    for token in (root, *islice(root.children, 1)):
        for chunk in chunks:
            if chunk.start <= token.i < chunk.end:
                return chunk
    return None


def _is_other(chunk: Span, target: Span | None, root: Token) -> bool:
    """Whether a noun chunk names an object that is not the target: "the table", but neither "who" nor "the left"."""
    if target is None and chunk.root.head.i == root.i and chunk.root.dep_ in _SUBJECTS:
        return False  # the sentence says something of its subject: that is the target, though the phrase is all of it
    if target is not None and chunk.start == target.start:
        return False
    if chunk.root.lower_ in PLACES:
        return False  # "the right hand side"
    return any(t.pos_ in ("NOUN", "PROPN") and t.lower_ not in PLACES for t in chunk)
