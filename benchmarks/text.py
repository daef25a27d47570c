"""Texts: expression by expression as the released code goes about it, and every distinct string once."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import open_clip
import torch
from torch import Tensor

from benchmarks.expressions import expressions
from benchmarks.harness import Result, medians
from benchmarks.roofline import THREADS, counted
from stages.text.encoder import TextEncoder
from stages.text.noun_phrase import parse_sentences
from stages.text.spacy_model import load_spacy

EXPRESSIONS, REPEATS = 200, 2
ARCHITECTURE, SPACY = "ViT-B-32-quickgelu", "en_core_web_sm"


class Seconds(Counter[str]):
    """Wall seconds by part, summed over runs."""

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self[part] += time.perf_counter() - start


def text() -> Result:
    """From the raw expressions to the vectors of sentences and noun phrases; a random ViT-B/32 in float32, 2 threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    try:
        return _measured(expressions(EXPRESSIONS))
    finally:
        torch.set_num_threads(threads)


def _measured(raw: list[str]) -> Result:
    import spacy

    nlp = load_spacy(SPACY)
    whole = spacy.load(nlp.path)  # the release leaves no component out
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = open_clip.CLIP(**open_clip.get_model_config(ARCHITECTURE)).eval()
    tokenizer = open_clip.get_tokenizer(ARCHITECTURE)
    seconds = {"plain": Seconds(), "ours": Seconds()}

    def tokenise(name: str, *arguments: Any, **options: Any) -> Tensor:
        with seconds[name].timed("tokenise"):
            return tokenizer(*arguments, **options)

    def plain() -> np.ndarray:
        vectors = []
        for sentence in raw:
            with seconds["plain"].timed("spaCy"):
                clean, phrase = released_parse(whole, sentence)
            for string in (clean, phrase):
                tokens = tokenise("plain", [string])
                with torch.inference_mode():
                    vectors.append(model.encode_text(tokens)[0].numpy())
        return np.array(vectors).reshape(len(raw), 2, -1)

    def ours() -> np.ndarray:
        with seconds["ours"].timed("spaCy"):
            distinct = list(dict.fromkeys(raw))
            parsed = dict(zip(distinct, parse_sentences(nlp, distinct), strict=True))
        texts = [(parsed[sentence].sentence, parsed[sentence].noun_phrase) for sentence in raw]
        rows = {string: row for row, string in enumerate(dict.fromkeys(string for pair in texts for string in pair))}
        encoder = TextEncoder(model, lambda *arguments, **options: tokenise("ours", *arguments, **options))
        vectors = encoder.encode(list(rows))[0]
        return vectors[[[rows[string] for string in pair] for pair in texts]]

    expected, got = plain(), ours()  # the warm-up, too
    error = float((np.linalg.norm(got - expected, axis=2) / np.linalg.norm(expected, axis=2)).max())
    for own in seconds.values():
        own.clear()
    totals = medians(plain, ours, repeats=REPEATS, warm_up=False)
    parts = "; ".join(
        f"{name}: {_milliseconds(_parts(own, total))}"
        for (name, own), total in zip(seconds.items(), totals, strict=True)
    )
    encode = _parts(seconds["ours"], totals[1])["encode"]
    work = replace(counted(ours, model.transformer), seconds=encode)
    note = f"ms per expression, of {EXPRESSIONS}: {parts}"
    return Result("text", *totals, error=error, at_least=5, note=note, stage="embed_text", work=work)


def _parts(seconds: Seconds, total: float) -> dict[str, float]:
    """Seconds of each part in one run; the rest of ``total`` is the encoding."""
    known = {part: own / REPEATS for part, own in seconds.items()}
    return {**known, "encode": total - sum(known.values())}


def _milliseconds(parts: dict[str, float]) -> str:
    return ", ".join(f"{part} {1e3 * own / EXPRESSIONS:.2f}" for part, own in parts.items())


def released_parse(nlp: Any, sentence: str) -> tuple[str, str]:
    """Clean sentence and noun phrase as the release gets them, parsing twice."""
    clean = " ".join(token.text for token in nlp(sentence.lower()) if token.text != " ")
    return clean, _noun_phrase(nlp(clean))


def _noun_phrase(doc: Any) -> str:
    """The release's rule, written plainly: the chunk of the last root, or of its first child, or the whole."""
    root = [token for token in doc if token.head.i == token.i][-1]
    for token in (root, *list(root.children)[:1]):
        for chunk in doc.noun_chunks:
            if chunk.start <= token.i < chunk.end:
                return chunk.text
    return doc.text
