"""Sentences parsed as stage parse keeps them as parts: whose code digest covers this module and what it imports."""

from __future__ import annotations

import json

import numpy as np

from stages.text.noun_phrase import Parsed, parse_sentences
from stages.text.spacy_model import load_spacy, spacy_digest
from store.errors import StoreError
from store.units import Compute, Result
from store.work import Item


def parser(spacy_model: str, digest: str, device: str) -> Compute:
    """What computes units of sentences. spaCy runs on the CPU.

    Raises:
        StoreError: the model's files are others than those of ``digest``.
    """
    nlp = load_spacy(spacy_model)
    if spacy_digest(spacy_model) != digest:
        raise StoreError(
            f"spaCy model {spacy_model}: expected the files that this run began with (sha256 {digest[:16]}), found others: it "
            "was replaced meanwhile, or a worker has another one; run the same command again"
        )
    return lambda sentences, kinds: [Result({"parse": _item(parsed)}) for parsed in parse_sentences(nlp, sentences)]


def _item(parsed: Parsed) -> Item:
    fields = ("sentence", "noun_phrase", "other_phrases", "position_words", "relation_words", "status")
    text = json.dumps({**{name: getattr(parsed, name) for name in fields}, **parsed.spatial._asdict()})
    return {"json": np.frombuffer(text.encode(), np.uint8)}
