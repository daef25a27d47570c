"""Stage parse: clean sentence, target noun phrase, other noun phrases, position and relation words of every expression."""

from __future__ import annotations

import json
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from stages.contract import Context, Summary, compute_missing
from stages.contract import Params as BaseParams
from stages.contract import Paths as BasePaths
from store.fingerprint import code_digest, fingerprint
from store.states import State
from store.table import read_table, write_table
from store.units import Compute, Result
from store.usable import Lost, require_usable
from store.work import Parts, locked

_UNIT = 512


class Params(BaseParams):
    """The spaCy model (the paper's is en_core_web_lg)."""

    spacy_model: str = Field("en_core_web_lg", description="installed spaCy pipeline with tagger and parser")


class Paths(BasePaths):
    index: Path
    parse: Path
    outputs: ClassVar[tuple[str, ...]] = ("parse",)


def run(params: Params, paths: Paths, context: Context) -> Summary:
    """Write the parse table; every distinct sentence is parsed once."""
    from stages.text.spacy_model import spacy_digest

    summary = Summary()
    index = read_table(paths.index, "index", ("expression_raw", "expression_status"))
    raw = index["expression_raw"]
    keys = [fingerprint(sentence) for sentence in raw]
    summary.read = {"expressions": len(raw)}
    config = {
        "spacy_model": spacy_digest(params.spacy_model),
        "spacy": version("spacy"),
        "code": code_digest("stages.parse"),
    }
    with locked(context.work):
        parts = Parts(context.work, "parse", config)
        load = partial(parser, params.spacy_model)
        results = compute_missing(
            {"parse": parts}, {"parse": keys}, raw, load, context, summary, "sentences", unit=_UNIT
        )
        parsed = [json.loads(results.get("parse", key)["json"].tobytes()) for key in keys]
    columns = {
        "sentence": [p["sentence"] for p in parsed],
        "noun_phrase": [p["noun_phrase"] for p in parsed],
        **{
            name: [json.dumps(p[name]) for p in parsed]
            for name in ("other_phrases", "position_words", "relation_words")
        },
        "status": [p["status"] for p in parsed],
    }
    blank = [
        Lost(State.FAULTY_SENTENCE, status, f"expression {row}")
        for row, (status, known) in enumerate(zip(columns["status"], index["expression_status"], strict=True))
        if status and not known
    ]
    given = sum(not status for status in index["expression_status"])
    require_usable(
        summary, "sentences to parse", given, blank, "correct the sentences", "all are faulty, see stage index"
    )
    made_from = {"index": index.digest}
    write_table(paths.parse, "parse", columns, {**params.config(), **config}, made_from, losses=summary.losses)
    summary.wrote = {"expressions": len(parsed)}
    summary.skipped = [f"expression {row}: {p['status']}" for row, p in enumerate(parsed) if p["status"]]
    return summary


def parser(spacy_model: str, device: str) -> Compute:
    """What computes units of sentences. spaCy runs on the CPU."""
    from stages.text.noun_phrase import parse_sentences
    from stages.text.spacy_model import load_spacy

    nlp = load_spacy(spacy_model)
    return lambda sentences, kinds: [Result({"parse": _item(found)}) for found in parse_sentences(nlp, sentences)]


def _item(parsed: Any) -> dict[str, Any]:
    fields = ("sentence", "noun_phrase", "other_phrases", "position_words", "relation_words", "status")
    text = json.dumps({name: getattr(parsed, name) for name in fields})
    return {"json": np.frombuffer(text.encode(), np.uint8)}
