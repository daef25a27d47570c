"""Stage embed_text: the raw text vector of every DISTINCT string: sentences, noun phrases, other phrases, class names."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from stages.clip.config import backbone_named, encoder_files, encoder_identity, vectors_of
from stages.contract import Context, Listed, Summary, compute_missing
from stages.contract import Params as BaseParams
from stages.contract import Paths as BasePaths
from stages.device.precision import Precision
from stages.text.compute import embedder
from stages.text.published import published_texts
from stages.text.template import BETWEEN, Template, mean_of_prompts, prompts_of
from store.fingerprint import code_digest, fingerprint, library_versions
from store.locks import locked
from store.ragged import offsets_of
from store.registry import record_digest
from store.states import State
from store.table import read_table
from store.usable import Lost, lost_vectors, require_usable
from store.vectors import write_vectors
from store.work import Parts

_UNIT = 512
Prompts = tuple[str, ...]
"""What is embedded of a text: one string for each template."""


class Params(BaseParams):
    """The CLIP model and the prompt (the paper uses none: the template "{}")."""

    model: str = Field("ViT-B-32-quickgelu", description="as in embed_masks")
    template: Template = Field(
        "{}", description="prompt around sentence and phrase, or several with | between: their mean"
    )
    other_template: Template = Field("a photo of {}", description="prompt around a noun phrase of another object")
    class_names: Listed[str] = Field(
        [], description="names that every mask is compared with, whatever the expression, in other_template"
    )
    precision: Precision = Field("float32", description="as in embed_masks")
    image_size: int = Field(0, ge=0, description="as in embed_masks: part of which encoder it is")


class Paths(BasePaths):
    parse: Path
    weights: Path
    text_features: Path
    outputs: ClassVar[tuple[str, ...]] = ("text_features",)


def run(params: Params, paths: Paths, context: Context) -> Summary:
    """Write the text features and, for each expression, the rows of its sentence, its noun phrase and its other phrases."""
    summary = Summary()
    parse = read_table(paths.parse, "parse", ("sentence", "noun_phrase", "other_phrases"))
    texts = [[prompts_of(params.template, text) for text in parse[name]] for name in ("sentence", "noun_phrase")]
    others = [
        [prompts_of(params.other_template, phrase) for phrase in json.loads(known)] for known in parse["other_phrases"]
    ]
    names = [prompts_of(params.other_template, name) for name in dict.fromkeys(params.class_names)]
    distinct = sorted({*texts[0], *texts[1], *chain.from_iterable(others), *names})
    rows = {prompts: row for row, prompts in enumerate(distinct)}
    keys = {string: fingerprint(string) for string in sorted({*chain.from_iterable(rows)})}
    summary.read = {"expressions": len(texts[0]), "distinct strings": len(keys)}
    encoder = encoder_identity(params.model, paths.weights, params.precision, params.image_size)
    config = key_of(params, paths)
    with locked(context.work, context.wait):
        parts = Parts(context.work, "text", config)
        load = partial(embedder, params, paths.weights, context.batch)
        results = compute_missing(
            *({"text": parts}, {"text": list(keys.values())}, list(keys), load, context, summary, "strings"),
            unit=_UNIT,
            reads=encoder_files(params.model, paths.weights, config),
            modules=[__name__, *modules_of(params.model)],  # its own: a worker gets the parameters
            published=lambda: published_texts(paths.text_features, parts),
        )

        def vector(prompts: Prompts) -> NDArray[np.float32]:
            return mean_of_prompts(np.concatenate([results.get("text", keys[p])["feature"] for p in prompts]))[None]

        cut = {string: bool(results.get("text", key)["truncated"][0]) for string, key in keys.items()}
        columns = _columns(rows, texts, others, names, cut)
        lost = [
            Lost(State.LOST_FEATURE, "the vector is zero, denormal or not finite", f"string {string!r}")
            for string, prompts in zip(columns["string"], rows, strict=True)
            if lost_vectors(vector(prompts))[0]
        ]
        require_usable(summary, "strings", len(rows), lost, "check the weights and the precision")
        write_vectors(
            paths.text_features,
            "text_features",
            len(rows),
            vector(next(iter(rows))).shape[1] if rows else 1,
            {"feature": map(vector, rows)},
            columns,
            {**params.config(), **config},
            {"parse": parse.digest},
            encoder=encoder,
            parts={"text": parts.folder.name},
            losses=summary.losses,
        )
    summary.wrote = {"strings": len(rows)}
    truncated = zip(columns["string"], columns["truncated"], strict=True)
    summary.skipped = [f"truncated to the context length: {string!r}" for string, was_cut in truncated if was_cut]
    return summary


def _columns(
    rows: Mapping[Prompts, int],
    texts: Sequence[Sequence[Prompts]],
    others: Sequence[Sequence[Prompts]],
    names: Sequence[Prompts],
    cut: Mapping[str, bool],
) -> dict[str, Any]:
    """What stands beside the vectors: the strings, and the row of each expression's texts.

    Args:
        rows: prompts of a text -> its row. texts: of each expression's sentence and of its noun phrase. others: of its other
            phrases. names: of the class names. cut: string -> whether it was truncated.
    """
    return {
        "string": [BETWEEN.join(prompts) for prompts in rows],
        "truncated": np.array([any(cut[prompt] for prompt in prompts) for prompts in rows], np.bool_),
        "sentence_string": np.array([rows[text] for text in texts[0]], np.int64),
        "phrase_string": np.array([rows[text] for text in texts[1]], np.int64),
        "other_offsets": offsets_of(map(len, others)),
        "other_string": np.array([rows[text] for text in chain.from_iterable(others)], np.int64),
        "class_string": np.array([rows[name] for name in names], np.int64),
    }


def modules_of(model: str) -> list[str]:
    """The modules that compute the vectors of ``model``."""
    return ["stages.text.compute", *backbone_named(model).modules("text")]


def key_of(params: Params, paths: Paths) -> dict[str, Any]:
    """What a text vector depends on, apart from its string."""
    backbone = backbone_named(params.model)
    identity = encoder_identity(params.model, paths.weights, params.precision, params.image_size)
    own = ("tokenizers",) if "tokenizer" in identity else ()
    return {
        **vectors_of(identity),
        "code": fingerprint([record_digest(backbone), code_digest(*modules_of(params.model))]),
        "libraries": library_versions("ftfy", "numpy", "open_clip_torch", "regex", "torch", *backbone.libraries, *own),
    }
