"""The sweep stage: surfaces and their best points, against plain loops."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages import score as score_stage
from stages import sweep as sweep_stage
from stages.contract import Context
from stages.scoring.metrics import summarise
from stages.scoring.score_rule import ScoreRule
from stages.scoring.table import Filters, load_pairs
from tests.helpers.oracles import RULES, context, evaluated, fields, make_pairs, plain_point, rule_of, store_with_pairs
from tests.helpers.stores import GROUPS, Synthetic, synthetic

made = pytest.fixture(scope="module", params=RULES)(store_with_pairs)
rule = pytest.fixture(scope="module")(rule_of)


@pytest.mark.parametrize("empty", ["count", "skip"])
def test_surface_equals_scoring_each_point(made: Synthetic, empty: Any) -> None:
    pairs = load_pairs(made.paths["pairs"], 3)[0]
    alphas, betas = np.linspace(0, 1, 6).round(6), np.linspace(0, 1, 4).round(6)
    surface = sweep_stage.surface(pairs.filtered(Filters(top_n=4)), alphas, betas, empty, Context(work=Path()))
    for i, alpha in enumerate(alphas):
        for j, beta in enumerate(betas):
            params = score_stage.Params(alpha=alpha, beta=beta, empty=empty, top_n=4)
            chosen = pairs.choice(pairs.dots.scores(alpha, beta), params)
            for group in range(len(GROUPS)):
                expected = summarise(pairs.outcome(chosen).at(pairs.members(group)), empty)
                for name, values in surface.items():
                    assert values[group, i, j] == expected[name], (name, alpha, beta)


@pytest.mark.parametrize("filters", [Filters(), Filters(min_score=0.3, min_area=20)], ids=["all", "filtered"])
def test_sweep_stage(made: Synthetic, rule: ScoreRule, tmp_path: Path, filters: Filters) -> None:
    """The grid file: values of the surface and its best points, against loops over the vectors."""
    params = sweep_stage.Params(alphas=5, betas=3, **filters.config())
    sweep_stage.run(params, fields(made, sweep_stage, grid=tmp_path / "grid.json"), context(tmp_path))
    grid = json.loads((tmp_path / "grid.json").read_text())
    assert (grid["alphas"], grid["betas"]) == ([0, 0.25, 0.5, 0.75, 1], [0, 0.5, 1])
    for group, (dataset, split) in enumerate(GROUPS):
        found = grid["splits"][dataset][split]
        for name in ("oiou", "miou"):
            expected = [
                [plain_point(made, group, v, r, rule, filters)[name] for r in grid["betas"]] for v in grid["alphas"]
            ]
            np.testing.assert_allclose(found[name], expected, atol=6e-7)
            best = max(x for row in expected for x in row)
            first = next(
                (v, r)
                for v, row in zip(grid["alphas"], expected, strict=True)
                for r, x in zip(grid["betas"], row, strict=True)
                if x == best
            )
            assert found["best"][name] == {"alpha": first[0], "beta": first[1], "value": pytest.approx(best)}


def test_best_point_is_the_first_on_ties() -> None:
    values = np.array([[0.1, 0.3], [0.3, 0.3]])
    assert sweep_stage.best_point(values, np.array([0.0, 1.0]), np.array([0.2, 0.4])) == {
        "alpha": 0.0,
        "beta": 0.4,
        "value": 0.3,
    }


def test_an_empty_group_is_0_on_the_surface(tmp_path: Path) -> None:
    made = synthetic(tmp_path, seed=1, counts=(2,))
    pairs, _ = load_pairs(make_pairs(made), 3)
    empty = [group for group in range(len(GROUPS)) if not evaluated(made, group)]
    assert empty
    surface = sweep_stage.surface(pairs, np.array([0.0, 1.0]), np.array([0.5]), "count", Context(work=tmp_path))
    for values in surface.values():
        assert (values[empty] == 0).all()
        assert np.isfinite(values).all()
