"""Stage parse: clean sentence, noun phrases, position and relation words of every expression, and what they say as numbers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from stages.contract import Context, Summary, compute_missing
from stages.contract import Params as BaseParams
from stages.contract import Paths as BasePaths
from stages.text.parsing import parser
from stages.text.spacy_model import spacy_digest
from stages.text.words import POSITIONS
from store.fingerprint import code_digest, fingerprint, library_versions
from store.locks import locked
from store.ragged import offsets_of
from store.states import State
from store.table import as_rows, read_table, write_table
from store.usable import Lost, require_usable
from store.work import Parts

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
    summary = Summary()
    index = read_table(paths.index, "index", ("expression_raw", "expression_status"))
    raw = index["expression_raw"]
    keys = [fingerprint(sentence) for sentence in raw]
    summary.read = {"expressions": len(raw)}
    config = key_of(params)
    with locked(context.work, context.wait):
        parts = Parts(context.work, "parse", config)
        load = partial(parser, params.spacy_model, config["spacy_model"])
        results = compute_missing(
            {"parse": parts}, {"parse": keys}, raw, load, context, summary, "sentences", unit=_UNIT, reads={}
        )
        parsed = [json.loads(results.get("parse", key)["json"].tobytes()) for key in keys]
    columns = {
        "sentence": [p["sentence"] for p in parsed],
        "noun_phrase": [p["noun_phrase"] for p in parsed],
        **{
            name: [json.dumps(p[name]) for p in parsed]
            for name in ("other_phrases", "position_words", "relation_words")
        },
        **spatial_columns(parsed),
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


def spatial_columns(parsed: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The columns of places and relations, from sentences with the fields of ``stages.text.relations.Spatial``."""
    return {
        "relation_offsets": offsets_of(len(p["relations"]) for p in parsed),
        "relation": as_rows([row for p in parsed for row in p["relations"]], "int32", 4),
        "position": as_rows([p["position"] for p in parsed], "bool", len(POSITIONS)),
        **{name: as_rows([p[name] for p in parsed], "int32", 2) for name in ("ordinal", "hybrid")},
    }


def key_of(params: Params) -> dict[str, Any]:
    """What the parse of a sentence depends on, apart from the sentence."""
    return {
        "spacy_model": spacy_digest(params.spacy_model),
        "code": code_digest("stages.text.parsing"),
        "libraries": library_versions("spacy"),
    }
