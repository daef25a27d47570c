"""The rules of the paper's baselines against loops over the vectors of the synthetic store."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages import score as score_stage
from stages.scoring.rules.known import RULES
from stages.scoring.table import PairTable, load_pairs
from store.errors import ParameterError
from store.table import read_table
from tests.helpers.oracles import context, dot, fields, make_pairs, plain_best, unit
from tests.helpers.stores import Synthetic, synthetic

DENSE = ("mask_clip", "sclip", "clear_clip", "nac_clip", "gem", "clip_surgery")
PROMPTS = ("text_region", "blur", "red_circle")
HYBRIDS = ("hybrid_g2l", "hybrid_l2g")
VIEWS = ("score_map", "score_map.inside_minus_outside", "grad_cam", "region_token", *DENSE, *PROMPTS, *HYBRIDS)
NEW = ("score_map", "grad_cam", "grad_cam_released", "region_token")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Synthetic:
    result = synthetic(tmp_path_factory.mktemp("store"), others=VIEWS)
    make_pairs(result)
    return result


@pytest.fixture(scope="module")
def pairs(made: Synthetic) -> PairTable:
    return load_pairs(made.paths["pairs"], 3)[0]


def plain(made: Synthetic, view: str, sign: int, *, cosine: bool) -> list[float]:
    """Of every pair, expression by expression."""
    scores = []
    for expression in range(len(made.ref)):
        sentence = unit(made.text[made.strings[expression][0]])
        for row in made.rows_of(expression):
            vector = made.others[view][row]
            if not vector.any():
                scores.append(-math.inf)
            else:
                scores.append(sign * dot(unit(vector) if cosine else vector, sentence))
    return scores


def scored(pairs: PairTable, rule: str, settings: dict[str, Any]) -> Any:
    params = score_stage.Params(enabled=[rule], settings={rule: settings})
    return score_stage.rule_scores(pairs, params)[rule]


@pytest.mark.parametrize(
    ("rule", "settings", "view", "sign"),
    [
        ("score_map", {}, "score_map", 1),
        ("score_map", {"view": "score_map.inside_minus_outside"}, "score_map.inside_minus_outside", 1),
        ("grad_cam", {}, "grad_cam", 1),
        ("grad_cam_released", {}, "grad_cam", -1),
        ("grad_cam", {"view": "score_map"}, "score_map", 1),
        ("region_token", {}, "region_token", 1),
        *((name, {}, name, 1) for name in (*DENSE, *PROMPTS)),
        ("gem", {"view": "clear_clip"}, "clear_clip", 1),
    ],
)
def test_scores_are_a_loop_over_vectors(
    made: Synthetic, pairs: PairTable, rule: str, settings: dict[str, str], view: str, sign: int
) -> None:
    expected = plain(made, view, sign, cosine=rule in ("region_token", *PROMPTS))
    got = scored(pairs, rule, settings)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
    assert np.isneginf(got).sum() == np.isneginf(expected).sum() > 0
    assert np.isfinite(got).sum() > 50


@pytest.mark.parametrize(
    ("rule", "views"), [("hybrid_g2l", HYBRIDS[:1]), ("hybrid_l2g", HYBRIDS[1:]), ("hybrid", HYBRIDS)]
)
def test_hybrids_mix_the_texts_as_global_local_does(
    made: Synthetic, pairs: PairTable, rule: str, views: tuple[str, ...]
) -> None:
    params = score_stage.Params(enabled=[rule], beta=0.3)
    got = score_stage.rule_scores(pairs, params)[rule]
    expected = []
    for expression in range(len(made.ref)):
        sentence, phrase = (made.text[row] for row in made.strings[expression])
        text = unit(0.3 * sentence + 0.7 * phrase)
        for row in made.rows_of(expression):
            vectors = [made.others[view][row] for view in views]
            usable = all(vector.any() for vector in vectors)
            expected.append(100 * dot(unit(np.sum(vectors, axis=0)), text) if usable else -math.inf)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-3)


def test_choices_and_metrics_of_the_stage(made: Synthetic, tmp_path: Path) -> None:
    """The stage with these rules beside the usual one: a mask without a vector is never chosen."""
    params = score_stage.Params(enabled=["global_local", *NEW], resamples=0)
    paths = fields(made, score_stage, metrics=tmp_path / "metrics.json").model_copy(
        update={"scores": tmp_path / "scores.h5"}
    )
    score_stage.run(params, paths, context(tmp_path))
    table = read_table(tmp_path / "scores.h5", "scores")
    offsets = load_pairs(made.paths["pairs"], 3)[0].offsets
    for rule in NEW:
        view = rule.removesuffix("_released")
        scores = plain(made, view, -1 if rule.endswith("released") else 1, cosine=rule == "region_token")
        best = []
        for e in range(len(made.ref)):
            own = scores[offsets[e] : offsets[e + 1]]
            position = plain_best(own)
            best.append(-1 if position >= 0 and own[position] == -math.inf else position)
        chosen = table[f"chosen.{rule}"].tolist()
        assert chosen == best
        assert {"score_map", rule} <= set(table.attrs["rules"])
        alone = [e for e in range(len(made.ref)) if len(made.rows_of(e)) and chosen[e] < 0]
        assert alone, "expected an image whose only mask has no vector"


@pytest.mark.parametrize("rule", NEW)
def test_a_view_that_was_not_computed(made: Synthetic, tmp_path: Path, rule: str) -> None:
    other = synthetic(tmp_path)
    make_pairs(other)
    bare = load_pairs(other.paths["pairs"], 3)[0]
    view = rule.removesuffix("_released")
    with pytest.raises(
        ParameterError,
        match=rf"rule {rule}: needs view '{view}', which .*vit\.h5 does not hold; known: global\.k1, global\.k3, local; "
        rf"add {view} to embed_masks\.views, or take {rule} out of rules\.enabled",
    ):
        scored(bare, rule, {})
    label = f"{view}.inside_minus_outsid"
    with pytest.raises(
        ParameterError, match=rf"needs view '{label}'.*'inside_minus_outsid' to embed_masks\.settings\.{view}"
    ):
        scored(bare, rule, {"view": label})


def test_names_and_formulas() -> None:
    assert set(NEW) <= set(RULES)
    assert len({RULES[rule].formula for rule in NEW}) == len({RULES[rule].label for rule in NEW}) == len(NEW)
