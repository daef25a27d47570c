"""The rules of other phrases, places, relations and ordinals against loops over the vectors of the synthetic store."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from stages import score as score_stage
from stages.scoring.boxes import box_relation
from stages.scoring.rules.relation import hybrid_relation
from stages.scoring.score_rule import ScoreRule
from stages.scoring.table import PairTable, load_pairs
from stages.text.words import KINDS
from store.errors import ParameterError
from store.ragged import offsets_of
from store.schema import PAIRS
from store.table import read_table, write_table
from tests.helpers.oracles import make_pairs
from tests.helpers.rule_oracles import (
    ALPHA,
    BETA,
    HEAT,
    K,
    Plain,
    plain_coherence,
    plain_hybrid,
    plain_negative,
    plain_ordinal,
    plain_position,
    plain_reclip,
    plain_rectifier,
    plain_subtraction,
    plain_weighted,
    soft,
)
from tests.helpers.stores import Synthetic, synthetic

GOLDEN = Path(__file__).parents[1] / "golden"
NEW = ("weighted", "subtraction", "negative", "position", "rectifier", "ordinal", "relation")
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    *((rule, {}) for rule in NEW),
    ("relation", {"method": "hybrid"}),
    ("relation", {"view": "local"}),
    ("negative", {"view": "mixed"}),
    ("subtraction", {"view": "local", "bank": "toy/val", "weight": 0.3}),
    ("weighted", {"weights": {"local*phrase": 1.0, "global.k1*sentence": -0.4}, "cosine": False}),
    ("ordinal", {"margin": 1000.0, "overlap": 1.0}),
    ("ordinal", {"base": "cropping", "margin": 40.0, "overlap": 0.2}),
]


@pytest.fixture(scope="module", params=["cosine", "unnormalised"])
def rule_of(request: pytest.FixtureRequest) -> ScoreRule:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, rule_of: ScoreRule) -> Synthetic:
    result = synthetic(tmp_path_factory.mktemp("store"), seed=3, counts=(5, 0, 12, 1, 9, 2), score_rule=rule_of)
    make_pairs(result)
    return result


@pytest.fixture(scope="module")
def pairs(made: Synthetic) -> PairTable:
    return load_pairs(made.paths["pairs"], K)[0]


def scored(pairs: PairTable, rule: str, settings: dict[str, Any]) -> NDArray[np.float32]:
    params = score_stage.Params(enabled=[rule], settings={rule: settings}, alpha=ALPHA, beta=BETA, k=K)
    return score_stage.rule_scores(pairs, params)[rule]


PLAIN: dict[str, Any] = {
    "weighted": plain_weighted,
    "subtraction": plain_subtraction,
    "negative": plain_negative,
    "position": plain_position,
    "rectifier": plain_rectifier,
    "ordinal": plain_ordinal,
}


@pytest.mark.parametrize(("rule", "settings"), VARIANTS, ids=str)
def test_scores_are_loops(
    made: Synthetic, pairs: PairTable, rule_of: ScoreRule, rule: str, settings: dict[str, Any]
) -> None:
    got = scored(pairs, rule, settings)
    assert got.dtype == np.float32
    expected: list[float] = []
    for expression in range(len(made.ref)):
        e = Plain(made, expression, rule_of)
        if rule == "relation":
            expected += plain_hybrid(e) if settings.get("method") == "hybrid" else plain_reclip(e, **settings)
        else:
            expected += PLAIN[rule](e, **settings)
    assert np.isfinite(got).all()
    np.testing.assert_allclose(got, expected, rtol=2e-4, atol=2e-3 if rule_of == "cosine" else 2e-2)
    assert rule in ("weighted", "subtraction") or np.abs(got - scored(pairs, "global_local", {})).max() > 0.01


def test_coherence_is_a_loop(tmp_path: Path) -> None:
    made = synthetic(tmp_path, seed=4, counts=(5, 0, 12, 1, 9, 2), others=HEAT)
    table = load_pairs(make_pairs(made), K)[0]
    got = scored(table, "coherence", {})
    for expression in range(len(made.ref)):
        own = got[table.offsets[expression] : table.offsets[expression + 1]]
        expected = plain_coherence(Plain(made, expression, "cosine"))
        assert np.isneginf(own).tolist() == np.isneginf(expected).tolist()
        mild = np.abs(np.nan_to_num(expected, neginf=0)) < 50  # where the mean is the least value, C has no bound
        np.testing.assert_allclose(own[mild], np.array(expected)[mild], rtol=2e-3, atol=2e-3)
    other = rearranged(made, tmp_path / "other.h5", list(range(len(made.ref)))[::-1], True)
    again = scored(other, "coherence", {})
    for place, e in enumerate(reversed(range(len(made.ref)))):
        own = got[table.offsets[e] : table.offsets[e + 1]]
        np.testing.assert_allclose(again[other.offsets[place] : other.offsets[place + 1]][::-1], own, rtol=1e-4)


def test_coherence_needs_both_poolings(pairs: PairTable) -> None:
    with pytest.raises(ParameterError, match=r"rule coherence: needs view 'gem'.*add gem to embed_masks\.views"):
        scored(pairs, "coherence", {})


def rearranged(made: Synthetic, path: Path, expressions: list[int], backwards: bool) -> PairTable:
    """A pair table with these expressions alone, each with an image of its own, its proposals in order or backwards."""
    table = read_table(made.paths["pairs"], "pairs")
    offsets, phrases, relations = (table[name] for name in ("expression_offsets", "other_offsets", "relation_offsets"))
    step = -1 if backwards else 1
    pair = [np.arange(offsets[e], offsets[e + 1])[::step] for e in expressions]
    products = offsets_of(np.repeat(np.diff(offsets), np.diff(phrases)))
    counted = [x for e in expressions for x in range(phrases[e], phrases[e + 1])]
    rows: dict[str, Any] = {
        "E": np.array(expressions),
        "P": np.concatenate(pair),
        "N": table["proposal"][np.concatenate(pair)],
        "Q": np.concatenate([np.arange(relations[e], relations[e + 1]) for e in expressions]),
        "X": np.array(counted, np.int64),
        "Y": np.concatenate(
            [np.arange(products[x], products[x + 1])[::step] for x in counted] or [np.zeros(0, np.int64)]
        ),
    }
    columns = {}
    for name, values in table.columns.items():
        described = PAIRS.column(name)
        assert described is not None
        dims = described.dims[0]
        if dims == "E+1":
            columns[name] = offsets_of(np.diff(values)[rows["E"]])
        elif described.dtype == "utf8":
            columns[name] = [values[row] for row in rows[dims]]
        else:
            columns[name] = values[rows[dims]]
    columns["proposal"] = np.arange(len(rows["P"]))
    attrs = {name: table.attrs[name] for name in ("groups", "score_rule")}
    write_table(path, "pairs", columns, {}, {}, **attrs)
    return load_pairs(path, K)[0]


@pytest.mark.parametrize("backwards", [False, True])
def test_order_of_images_and_proposals_does_not_matter(
    made: Synthetic, pairs: PairTable, tmp_path: Path, backwards: bool
) -> None:
    """Nor what other images there are: in the release the smallest image so far cut the candidates of all later ones."""
    small = [e for e in range(len(made.ref)) if len(made.rows_of(e)) < 3]
    others = [e for e in range(len(made.ref)) if e not in small]
    order = [*small, *reversed(others[3:])]
    other = rearranged(made, tmp_path / "pairs.h5", order, backwards)
    for rule, settings in VARIANTS:
        whole, part = scored(pairs, rule, settings), scored(other, rule, settings)
        for place, e in enumerate(order):
            own = part[other.offsets[place] : other.offsets[place + 1]]
            before = whole[pairs.offsets[e] : pairs.offsets[e + 1]]
            np.testing.assert_allclose(own[::-1] if backwards else own, before, rtol=1e-5, atol=1e-5, err_msg=rule)


@pytest.mark.parametrize("counts", [(0,), (1,), (1, 0, 1), (0, 2)])
def test_one_mask_and_none(tmp_path: Path, counts: tuple[int, ...]) -> None:
    made = synthetic(tmp_path, counts=counts, seed=5)
    table = load_pairs(make_pairs(made), K)[0]
    for rule, settings in VARIANTS:
        params = score_stage.Params(enabled=[rule], settings={rule: settings})
        scores = score_stage.rule_scores(table, params)
        assert np.isfinite(scores[rule]).all()
        chosen = score_stage.choose(table, scores, params)[rule]
        assert (chosen < 0).tolist() == [not made.rows_of(e) for e in range(len(made.ref))]


def test_rejected_masks_are_chosen_where_nothing_else_is_left(made: Synthetic, pairs: PairTable) -> None:
    """A filter is applied after the rule."""
    for rule, settings in VARIANTS:
        params = score_stage.Params(enabled=[rule], settings={rule: settings}, top_n=1)
        chosen = score_stage.choose(pairs, score_stage.rule_scores(pairs, params), params)[rule]
        assert chosen.tolist() == [0 if made.rows_of(e) else -1 for e in range(len(made.ref))], rule


def golden_rows() -> list[tuple[dict[str, Any], NDArray[np.float64]]]:
    golden = json.loads((GOLDEN / "relations.json").read_text("utf-8"))
    boxes = np.load(GOLDEN / "hybrid_astronaut.npz")["boxes_xywh"].astype(np.float64)
    own = golden["golden_no_full"]["astronaut"]
    rows = [(row, np.array(golden["scene"]["boxes_xywh"], np.float64)) for row in golden["scene"]["rows"]]
    return rows + [(row, boxes[own["mask_rows"]]) for row in own["rows"]]


@pytest.mark.parametrize("place", range(16))
def test_hybrid_relations_are_the_releases(place: int) -> None:
    row, boxes = golden_rows()[place]
    boxes = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)
    other = None if row["logit_neg"][0] is None else np.array(soft(row["logit_neg"]))
    kind = {"up": "above", "down": "below", "big": "bigger", "small": "smaller"}.get(row["relation"], row["relation"])
    code = -1 if kind == "none" else KINDS.index(kind)
    top, rho, r = hybrid_relation(np.array(soft(row["logit"])), other, boxes, code, 3, 6)
    assert top.tolist() == row["top"]
    np.testing.assert_allclose(rho, row["rho"], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(r, row["R"], rtol=1e-4, atol=1e-6)


def test_relations_of_boxes_are_the_releases() -> None:
    """Its "right" fires here; its table of scores 1 leaves the diagonal out but for ``within``, as equal numbers do here."""
    golden = json.loads((GOLDEN / "relations.json").read_text("utf-8"))
    xywh = np.array(golden["scene"]["boxes_xywh"], np.float64)
    boxes = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], 1)
    names = {"up": "above", "down": "below", "big": "bigger", "small": "smaller"}
    for name, expected in golden["relation_table_scores_1"].items():
        if name not in ("none", "other"):
            found = box_relation(KINDS.index(names.get(name, name)), boxes, boxes)
            np.testing.assert_allclose(found, expected, rtol=1e-6, err_msg=name)


def test_a_box_of_no_width_is_within_nothing() -> None:
    """The release yields NaN."""
    boxes = np.array([[3.0, 1, 3, 9], [0, 0, 10, 10]])
    assert box_relation(KINDS.index("within"), boxes, boxes).tolist() == [[0, 0], [0, 1]]


def test_settings_are_checked() -> None:
    for rule, settings, said in [
        ("weighted", {"weights": {"local": 1}}, r"local: expected <view>\*<text>"),
        ("weighted", {"weights": {"local*nothing": 1}}, r"text one of sentence, phrase"),
        ("relation", {"base": "global_locl"}, r"did you mean 'global_local'"),
        ("relation", {"method": "none"}, r"method"),
        ("ordinal", {"overlap": 2}, r"overlap"),
    ]:
        with pytest.raises(ParameterError, match=said):
            score_stage.Params(enabled=[rule], settings={rule: settings}).chosen()


def test_a_bank_or_view_that_is_not_there(pairs: PairTable) -> None:
    with pytest.raises(ParameterError, match=r"subtraction\.bank: no split 'toy/vall'; did you mean 'toy/val'"):
        scored(pairs, "subtraction", {"bank": "toy/vall"})
    for rule, settings in [("negative", {"view": "gem"}), ("weighted", {"weights": {"gem*phrase": 1}})]:
        with pytest.raises(ParameterError, match=r"gem"):
            scored(pairs, rule, settings)
