"""Templates of one prompt and of several, and the rows of stage embed_text, with the demo's small encoder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from stages import embed_text
from stages.contract import Context
from stages.parse import spatial_columns
from stages.text.relations import NO_SPATIAL
from stages.text.template import Template, mean_of_prompts, prompts_of
from store.table import write_table
from store.vectors import Vectors

ROOT = Path(__file__).resolve().parents[2]
MODEL, WEIGHTS = ROOT / "demo/models/refshapes_clip.json", ROOT / "demo/models/refshapes_clip.safetensors"
SENTENCES = ["red disc left of the blue star", "blue star", "red disc left of the blue star", "ring"]
PHRASES = ["red disc", "blue star", "red disc", "ring"]
OTHERS = [["the blue star"], [], ["the blue star", "a ring"], []]


def embedded(folder: Path, **params: str) -> Vectors:
    lists = {name: ["[]"] * 4 for name in ("position_words", "relation_words")}
    columns = {"sentence": SENTENCES, "noun_phrase": PHRASES, "other_phrases": [json.dumps(own) for own in OTHERS]}
    columns |= {**lists, **spatial_columns([NO_SPATIAL._asdict()] * 4), "status": [""] * 4}
    write_table(folder / "parse.h5", "parse", columns, {}, {"index": "0"})
    paths = embed_text.Paths(parse=folder / "parse.h5", weights=WEIGHTS, text_features=folder / "text")
    embed_text.run(embed_text.Params(model=str(MODEL), **params), paths, Context(work=folder / "work"))  # type: ignore[arg-type]
    return Vectors(folder / "text", "text_features")


def test_rows_of_sentences_phrases_and_other_phrases(tmp_path: Path) -> None:
    text = embedded(tmp_path)
    strings = text.column("string")
    assert strings == sorted({*SENTENCES, *PHRASES, "a photo of the blue star", "a photo of a ring"})
    assert [strings[row] for row in text.column("sentence_string")] == SENTENCES
    assert [strings[row] for row in text.column("phrase_string")] == PHRASES
    offsets, rows = text.column("other_offsets").tolist(), text.column("other_string")
    found = [[strings[row] for row in rows[offsets[e] : offsets[e + 1]]] for e in range(4)]
    assert found == [[f"a photo of {phrase}" for phrase in own] for own in OTHERS]


def test_several_prompts_are_the_mean_of_their_unit_vectors(tmp_path: Path) -> None:
    template = "a photo of the {} | {}|{} in a scene"
    many = embedded(tmp_path / "many", template=template)
    alone = [embedded(tmp_path / str(n), template=one.strip()) for n, one in enumerate(template.split("|"))]
    for name in ("sentence_string", "phrase_string"):
        expected = np.zeros((4, many.width))
        for one in alone:
            vectors = one.rows("feature")[one.column(name)].astype(np.float64)
            expected += vectors / np.linalg.norm(vectors, axis=1, keepdims=True) / len(alone)
        np.testing.assert_allclose(many.rows("feature")[many.column(name)], expected, rtol=1e-5, atol=1e-7)
    row = many.column("phrase_string")[3]
    assert many.column("string")[row] == "a photo of the ring|ring|ring in a scene"
    other = alone[0].rows("feature")[alone[0].column("other_string")]
    np.testing.assert_array_equal(many.rows("feature")[many.column("other_string")], other)


def test_prompts() -> None:
    assert prompts_of("{}", "a dog ") == ("a dog ",)
    assert prompts_of(" {} |a {}.", "dog") == ("dog", "a dog.")
    one = np.array([[3.0, 4.0]], np.float32)
    assert mean_of_prompts(one).tolist() == [3, 4]
    np.testing.assert_allclose(mean_of_prompts(np.array([[3, 4], [0, 2]], np.float32)), [0.3, 0.9], rtol=1e-6)
    assert np.isnan(mean_of_prompts(np.array([[3, 4], [0, 0]], np.float32))).all()


@pytest.mark.parametrize("template", ["", "{}|", "{}|a photo", "{} {}|{}", "{x}|{}"])
def test_every_prompt_has_one_place(template: str) -> None:
    with pytest.raises(ValidationError, match=r"exactly one \{\}, in each prompt"):
        TypeAdapter(Template).validate_python(template)
