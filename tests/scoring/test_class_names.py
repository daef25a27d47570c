"""Class names as texts: their products with every mask, and the rule that reads them, against plain loops."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from stages.scoring.rules.known import RULES
from stages.scoring.table import Scoring, load_pairs
from store.errors import ParameterError
from store.table import read_table
from tests.helpers.oracles import dot, make_pairs, mix, plain_score, unit
from tests.helpers.stores import Synthetic, synthetic

ALPHA, BETA, K = 0.7, 0.25, 3


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Synthetic:
    result = synthetic(tmp_path_factory.mktemp("store"), seed=2)
    make_pairs(result)
    return result


def test_products_with_unit_vectors_of_the_names(made: Synthetic) -> None:
    table = read_table(made.paths["pairs"], "pairs")
    views = {"local": made.f_local, **{f"global.k{k}": features for k, features in made.f_global.items()}}
    for view, features in views.items():
        found = table[f"class_dot.{view}"]
        assert found.shape == (len(features), len(made.class_names))
        for column, row in enumerate(made.class_names):
            expected = [dot(feature, unit(made.text[row])) for feature in features]
            np.testing.assert_allclose(found[:, column], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("weight", "tau"), [(1.0, 1.0), (0.5, 20.0)])
def test_the_rule_is_a_plain_loop(made: Synthetic, weight: float, tau: float) -> None:
    pairs, _ = load_pairs(made.paths["pairs"], K)
    rule, scoring = RULES["class_names"], Scoring(alpha=ALPHA, beta=BETA)
    found = rule.scores(pairs, scoring, rule.settings(weight=weight, tau=tau))
    place = 0
    for e, (sentence, phrase) in enumerate(made.strings):
        for row in made.rows_of(e):
            f_g, f_l = made.f_global[K][row], made.f_local[row]
            s = plain_score(f_g, f_l, made.text[sentence], made.text[phrase], ALPHA, BETA, "cosine")
            f = unit(mix(f_g, f_l, ALPHA))
            rivals = [100 * dot(f, unit(made.text[name])) for name in made.class_names]
            shares = [1 / (1 + math.exp(-(s - rival) / tau)) for rival in rivals]
            expected = s + weight * math.log(sum(shares) / len(shares))
            assert found[place] == pytest.approx(expected, rel=1e-3, abs=1e-3)
            place += 1
    assert place == len(found)


def test_far_below_all_names_is_low_and_not_lost(made: Synthetic) -> None:
    pairs, _ = load_pairs(made.paths["pairs"], K)
    rule = RULES["class_names"]
    found = rule.scores(pairs, Scoring(), rule.settings(tau=1e-3))
    assert np.isfinite(found[~pairs.lost]).all()


def test_without_names_the_rule_says_what_to_write(tmp_path: Path) -> None:
    nameless = synthetic(tmp_path, class_names=())
    make_pairs(nameless)
    pairs, _ = load_pairs(nameless.paths["pairs"], K)
    rule = RULES["class_names"]
    with pytest.raises(ParameterError, match=r"write names into embed_text\.class_names"):
        rule.scores(pairs, Scoring(), rule.settings())
