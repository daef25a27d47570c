"""Searches for better values: against a grid and plain loops over the vectors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from stages.scoring.table import Filters, PairTable, Scoring, load_pairs
from stages.scoring.tuning import Search, tuned
from store.errors import ParameterError
from tests.helpers.oracles import evaluated, make_pairs, plain_best, plain_metrics, plain_point, plain_scores
from tests.helpers.stores import GROUPS, STRINGS, Synthetic, synthetic

ON = "toy/val"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Synthetic:
    """Many images of three refs each in shuffled groups: some images are in one group only."""
    result = synthetic(tmp_path_factory.mktemp("store"), seed=3, counts=(6,) * 24)
    make_pairs(result)
    return result


@pytest.fixture(scope="module")
def pairs(made: Synthetic) -> PairTable:
    return load_pairs(made.paths["pairs"], 3)[0]


def search(pairs: PairTable, scoring: Scoring | None = None, settings: Any = None, **values: Any) -> dict[str, Any]:
    given = Search(**{"splits": ON, **values})
    return tuned(given, pairs, scoring or Scoring(alpha=0.5), settings or {}, resamples=50, seed=0)


def test_reaches_the_best_of_a_fine_grid(made: Synthetic, pairs: PairTable) -> None:
    found = search(pairs, vary={"alpha": (0.0, 1.0)}, evaluations=400)
    grid = [plain_point(made, 0, alpha, 0.5, "cosine", Filters())["miou"] for alpha in np.linspace(0, 1, 41)]
    assert found["best"] >= max(grid) - 1e-12
    assert found["start"] == pytest.approx(plain_point(made, 0, 0.5, 0.5, "cosine", Filters())["miou"], rel=1e-12)
    at = plain_point(made, 0, found["found"]["alpha"], 0.5, "cosine", Filters())["miou"]
    assert found["best"] == pytest.approx(at, rel=1e-12)
    assert found["tried"] <= 400
    values = [step["value"] for step in found["path"]]
    assert values == sorted(set(values)), "the path holds improvements only"


def test_reports_only_other_splits_and_only_images_not_searched_on(made: Synthetic, pairs: PairTable) -> None:
    found = search(pairs, evaluations=40)
    searched = {made.image_of(e) for e in evaluated(made, 0)}
    alpha, beta = found["found"]["alpha"], found["found"]["beta"]
    assert [(line["dataset"], line["split"]) for line in found["splits"]] == GROUPS[1:]
    for group, line in enumerate(found["splits"], start=1):
        own = [e for e in evaluated(made, group) if made.image_of(e) not in searched]
        assert line["searched"] == len(evaluated(made, group)) - len(own) > 0
        assert line["n"] == len(own) > 0
        for side, point in (("a", (alpha, beta)), ("b", (0.5, 0.5))):
            chosen = {e: plain_best(plain_scores(made, e, *point, "cosine", 3)) for e in own}
            plain = plain_metrics(made, chosen, "count")
            assert line["miou"][side] == pytest.approx(plain["miou"], rel=1e-12)
            assert line["oiou"][side] == pytest.approx(plain["oiou"], rel=1e-12)
        assert line["miou"]["ci"][0] <= line["miou"]["difference"] <= line["miou"]["ci"][1]


def test_the_same_seed_finds_the_same(pairs: PairTable) -> None:
    assert search(pairs, evaluations=60, seed=5) == search(pairs, evaluations=60, seed=5)


@pytest.mark.parametrize("evaluations", [5, 9, 33])
def test_no_more_points_than_asked_for(pairs: PairTable, evaluations: int) -> None:
    cells = {f"weights.{view}*{text}": (0.0, 1.0) for view in ("global.k3", "local") for text in ("sentence", "phrase")}
    for vary, rule in (({}, "global_local"), (cells, "weighted")):
        assert 5 <= search(pairs, rule=rule, vary=vary, evaluations=evaluations)["tried"] <= evaluations
    with pytest.raises(ValidationError, match="greater than or equal to 5"):
        Search(splits=[ON], evaluations=4)


def test_several_splits_count_alike(made: Synthetic, pairs: PairTable) -> None:
    found = search(pairs, splits=["toy/val", "other/val"], evaluations=20)
    assert [(line["dataset"], line["split"]) for line in found["splits"]] == [("toy", "testA")]
    point = (found["found"]["alpha"], found["found"]["beta"], "cosine", Filters())
    expected = np.mean([plain_point(made, group, *point)["miou"] for group in (0, 2)])
    assert found["best"] == pytest.approx(expected, rel=1e-12)


def test_weights_of_cells(made: Synthetic, pairs: PairTable) -> None:
    cells = ["global.k3*sentence", "local*phrase"]
    fixed = {"weights": {"local*sentence": 0.25}}
    vary = {f"weights.{cell}": (0.0, 1.0) for cell in cells}
    found = search(pairs, rule="weighted", vary=vary, settings=fixed, evaluations=60)
    weights = {name.removeprefix("weights."): value for name, value in found["found"].items()} | fixed["weights"]

    def unit(vector: Any) -> Any:
        return np.asarray(vector, np.float64) / np.linalg.norm(vector)

    chosen = {}
    for e in evaluated(made, 0):
        texts = dict(zip(("sentence", "phrase"), (unit(made.text[row]) for row in made.strings[e]), strict=True))
        views = {"global.k3": made.f_global[3], "local": made.f_local}
        chosen[e] = plain_best(
            [
                sum(w * float(unit(views[c.split("*")[0]][row]) @ texts[c.split("*")[1]]) for c, w in weights.items())
                for row in made.rows_of(e)
            ]
        )
    assert found["best"] == pytest.approx(plain_metrics(made, chosen, "count")["miou"], rel=1e-12)


def test_numbers_among_the_settings_whole_ones_too(pairs: PairTable) -> None:
    assert len(STRINGS) > 1
    found = search(pairs, rule="relation", vary={"candidates": (1, 4)}, settings={"method": "hybrid"}, evaluations=12)
    assert found["found"]["candidates"] in (1, 2, 3, 4)
    assert isinstance(found["found"]["candidates"], int)


def test_nothing_better_than_the_profile_is_said(pairs: PairTable) -> None:
    best = search(pairs, vary={"alpha": (0.0, 1.0)}, evaluations=400)
    at_best = Scoring(alpha=best["found"]["alpha"])
    again = search(pairs, at_best, vary={"alpha": (0.0, 1.0)}, evaluations=8)
    assert again["start"] == best["best"] >= again["best"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"splits": "toy/vall"}, "no split 'toy/vall'; did you mean 'toy/val'"),
        ({"vary": {"gamma": (0, 1)}}, "vary.gamma: rule global_local has no such number"),
        ({"rule": "subtraction", "vary": {"view": (0, 1)}}, "vary.view: rule subtraction has no such number; .*weight"),
        ({"rule": "weighted", "vary": {"weights.gem*phrase": (0, 1)}}, "needs view 'gem'"),
        ({"rule": "weighted", "vary": {"weights.local": (0, 1)}}, "expected <view>\\*<text>"),
        ({"rule": "ordinal", "vary": {"weights.local*phrase": (0, 1)}}, "weights"),
    ],
)
def test_what_cannot_be_searched(pairs: PairTable, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        search(pairs, evaluations=5, **values)


@pytest.mark.parametrize(
    ("vary", "message"),
    [
        ({"alpha": (0, 2)}, "within 0 to 1"),
        ({"alpha": (0.5, 0.5)}, "first below"),
        ({"beta": (0, np.nan)}, "two numbers"),
    ],
)
def test_ranges(vary: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Search(splits=[ON], vary=vary)


def test_command_line_words() -> None:
    from pipeline.commands.tune import search_of

    given = search_of("weighted", [ON], ["weights.local*phrase=-1:2"], "oiou", 10, 1)
    assert given.vary == {"weights.local*phrase": (-1.0, 2.0)}
    for word in ("alpha", "alpha=1", "=0:1"):
        with pytest.raises(ParameterError, match="expected NAME=LEAST:GREATEST"):
            search_of("global_local", [ON], [word], "miou", 10, 0)
    with pytest.raises(ParameterError, match=r"tune\.vary\.alpha"):
        search_of("global_local", [ON], ["alpha=a:b"], "miou", 10, 0)
    with pytest.raises(ParameterError, match="given twice"):
        search_of("global_local", [ON], ["alpha=0:1", "alpha=0:1"], "miou", 10, 0)


def test_a_declared_search_reaches_the_ablations(made: Synthetic, pairs: PairTable, tmp_path: Path) -> None:
    import json

    from stages import ablations
    from tests.helpers.oracles import context, fields, no_differences

    declared = {"point": {"splits": ON, "evaluations": 20}}
    params = ablations.Params(alpha=0.5, resamples=50, tune=declared)
    files = {"variants": no_differences(made), "ablations": tmp_path / "ablations.json"}
    ablations.run(params, fields(made, ablations, **files), context(tmp_path))
    content = json.loads((tmp_path / "ablations.json").read_text())
    assert content["tuned"] == {"point": search(pairs, evaluations=20)}
    wrong = params.model_copy(update={"tune": {"cells": Search(splits=["toy/none"])}})
    with pytest.raises(ParameterError, match=r"ablations\.tune\.cells: .*no split 'toy/none'.*or remove this search"):
        ablations.run(wrong, fields(made, ablations, **files), context(tmp_path))
