"""What a rule says that it needs is what its scores depend on, and what it reads."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages.heat_maps.known import HEAT_MAPS
from stages.scoring.products import TEXTS, dot_name
from stages.scoring.rules.known import RULES
from stages.scoring.rules.registry import Rule, checked
from stages.scoring.table import LOCAL, Columns, PairTable, Scoring, load_pairs
from store.schema import members
from tests.helpers.oracles import make_pairs
from tests.helpers.stores import Synthetic, synthetic

SCORING = Scoring(alpha=0.4, beta=0.3, k=1)


class Spied(Columns):
    """Notes the cells that are read, and gives one of them with other values."""

    changed = ""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.cells: set[str] = set()

    def __getitem__(self, name: str) -> Any:
        column = super().__getitem__(name)
        if not name.startswith(("dot.", "heat.")):
            return column
        self.cells.add(name)
        return column + np.arange(len(column), dtype=np.float32) if name == self.changed else column


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Synthetic:
    """A store with every view that a rule needs with its usual settings."""
    needed = {view for rule in RULES.values() for view, _ in rule.needs(SCORING, rule.settings())}
    extra = sorted(view for view in needed if view != LOCAL and not view.startswith("global."))
    maps = (*(name for name in HEAT_MAPS if name in RULES), "other")
    result = synthetic(tmp_path_factory.mktemp("store"), others=(*extra, "unused"), maps=maps)
    make_pairs(result)
    return result


def spied(made: Synthetic, changed: str = "") -> tuple[PairTable, Spied]:
    """The table and its columns, one of which has other values; what loading reads does not count."""
    table, attrs = load_pairs(made.paths["pairs"], SCORING.k)
    columns = Spied(made.paths["pairs"])
    columns.changed = changed
    dots = columns.dots(f"global.k{SCORING.k}", LOCAL, attrs["score_rule"])
    columns.cells.clear()
    return replace(table, dots=dots, columns=columns), columns


def scored(rule: Rule, table: PairTable, settings: Any) -> Any:
    return rule.scores(table, SCORING, settings)


@pytest.mark.parametrize("name", RULES)
def test_needs_are_the_columns_that_scores_depend_on(made: Synthetic, name: str) -> None:
    rule = RULES[name]
    settings = rule.settings()
    needs = {dot_name(*cell) for cell in rule.needs(SCORING, settings)}
    needs |= {f"heat.{kind}" for kind in rule.maps(settings)}
    table, columns = spied(made)
    before = scored(rule, table, settings)
    assert columns.cells <= needs, "read beside the two views that every table has loaded"
    cells = [f"{family}.{member}" for family in ("dot", "heat") for member in members(columns.names, family)]
    depends = {
        cell for cell in cells if not np.array_equal(scored(rule, spied(made, cell)[0], settings), before)
    }  # fmt: skip
    assert depends == needs
    assert not [cell for cell in needs if "unused" in cell]


def test_rules_of_heat_maps_read_the_map_and_the_pooling_that_they_are_given(made: Synthetic) -> None:
    """NaN, which stands for no mean, is never chosen."""
    table, columns = spied(made)
    for name, values in (("heat", {"map": "other"}), ("clip_es", {}), ("clip_es", {"pooling": "inside_minus_outside"})):
        settings = checked(RULES[name].settings, values, name)
        kind, pooling = values.get("map", "clip_es"), values.get("pooling", "")
        expected = columns[f"heat.{kind}.{pooling}".rstrip(".")]
        assert np.isnan(expected).any()
        np.testing.assert_array_equal(
            scored(RULES[name], table, settings), np.where(np.isnan(expected), -np.inf, expected)
        )
        assert RULES[name].maps(settings) == [kind]


def test_needs_follow_the_settings() -> None:
    rule = RULES["score_map"]
    settings = checked(rule.settings, {"view": "score_map.inside_minus_outside"}, "score_map")
    assert rule.needs(SCORING, settings) == [("score_map.inside_minus_outside", "sentence")]
    assert RULES["global"].needs(Scoring(k=7), None) == [("global.k7", text) for text in TEXTS]
