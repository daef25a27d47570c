"""The ablations stage: what other settings give, against loops over the vectors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from stages import ablations
from stages.scoring.score_rule import ScoreRule
from stages.scoring.table import Filters
from tests.helpers.oracles import (
    RULES,
    context,
    evaluated,
    fields,
    no_differences,
    plain_point,
    rule_of,
    store_with_pairs,
)
from tests.helpers.stores import GROUPS, Synthetic

made = pytest.fixture(scope="module", params=RULES)(store_with_pairs)
rule = pytest.fixture(scope="module")(rule_of)


@pytest.mark.parametrize("filters", [Filters(), Filters(min_score=0.3, min_area=20)], ids=["all", "filtered"])
def test_ablations(made: Synthetic, rule: ScoreRule, tmp_path: Path, filters: Filters) -> None:
    tried: dict[str, Any] = {"top_ns": [1, 3], "min_areas": 20} if filters == Filters() else {}
    params = ablations.Params(alpha=0.6, alpha_by_dataset={"other": 0.25}, beta=0.5, **filters.config(), **tried)
    files = {"variants": no_differences(made), "ablations": tmp_path / "ablations.json"}
    ablations.run(params, fields(made, ablations, **files), context(tmp_path))
    found = json.loads((tmp_path / "ablations.json").read_text())["ablations"]
    for group, (dataset, split) in enumerate(GROUPS):
        alpha = 0.25 if dataset == "other" else 0.6

        def value(beta: float, filters: Filters = filters, k: int = 3, at: tuple[int, float] = (group, alpha)) -> Any:
            return plain_point(made, *at, beta, rule, filters, k)

        rows = [row for row in found if (row["dataset"], row["split"]) == (dataset, split)]
        expected = [
            ("chosen", "k = 3, beta = 0.5", value(0.5)),
            ("masked blocks", "k = 1", value(0.5, k=1)),
            *(
                ("contexts", f"{visual} x {text}", value(beta, at=(group, own)))
                for visual, own in (("both", alpha), ("global", 1.0), ("local", 0.0))
                for text, beta in (("both", 0.5), ("sentence", 1.0), ("noun phrase", 0.0))
                if (visual, text) != ("both", "both")
            ),
        ]
        if tried:
            expected += [
                ("min_area", "min_area = 20", value(0.5, Filters(min_area=20))),
                ("top_n", "top_n = 1", value(0.5, Filters(top_n=1))),
                ("top_n", "top_n = 3", value(0.5, Filters(top_n=3))),
            ]
        assert [(row["name"], row["setting"]) for row in rows] == [(name, setting) for name, setting, _ in expected]
        for row, (_, setting, metrics) in zip(rows, expected, strict=True):
            assert row["n"] == len(evaluated(made, group))
            for name in ("oiou", "miou"):
                assert row[name] == pytest.approx(metrics[name], rel=1e-12), setting
