"""What the page knows of each expression, the failures it lists, and the gap's two parts: against loops over the masks."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages import report
from stages.page import gap
from stages.page.data import Data, load_data
from stages.page.expressions import Expressions, anchor_of
from tests.helpers.documents import data_sets
from tests.helpers.report_page import (
    CATEGORIES,
    CHOSEN,
    GROUP_OF_REF,
    GROUPS,
    REF_OF,
    SCORES,
    TEXTS,
    build,
    iou,
    make,
    set_metrics,
    without_vega,
)

no_vega = pytest.fixture(without_vega)
OURS = CHOSEN["chosen.global_local"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    return load_data(build(tmp_path_factory.mktemp("facts")))


def best(expression: int) -> float:
    return max((iou(expression, place) for place in range(len(SCORES[expression]))), default=0.0)


def margin(scores: list[float], chosen: int) -> float | None:
    """By a loop: the chosen score less the greatest of the others."""
    others = [score for place, score in enumerate(scores) if place != chosen]
    return scores[chosen] - max(others) if chosen >= 0 and others else None


def test_facts_are_those_of_the_masks_and_scores(data: Data) -> None:
    known = Expressions(data)
    for expression, text in enumerate(TEXTS):
        facts = known.facts(expression)
        assert (facts.expression, facts.expression_id, facts.ref_id) == (
            text,
            100 + expression,
            10 + REF_OF[expression],
        )
        assert (facts.dataset, facts.split) == GROUPS[GROUP_OF_REF[REF_OF[expression]]]
        assert facts.category == CATEGORIES[REF_OF[expression]]
        assert facts.iou == pytest.approx(iou(expression, OURS[expression]))
        assert facts.regret == pytest.approx(best(expression) - iou(expression, OURS[expression]))
        assert facts.regret is not None
        assert facts.regret >= 0
        expected = margin(SCORES[expression], OURS[expression])
        assert facts.margin == (None if expected is None else pytest.approx(expected))
    assert known.facts(2).relations == ("big", "left"), "words are compared without their case"
    assert known.facts(4).positions == ("left",)
    assert [known.facts(e).length for e in (0, 4)] == ["1-2 words", "3-5 words"]
    assert [known.has_spatial_word(e) for e in range(6)] == [False, False, True, False, True, False]


@pytest.mark.parametrize(
    ("config", "expression", "expected"),
    [
        ({"min_score": 0.5}, 0, 30.5 - 20.25),
        ({"min_score": 0.85}, 0, None),
        ({"top_n": 1}, 3, None),
        ({}, 4, 6.0 - 2.0),
    ],
)
def test_the_margin_is_to_the_next_proposal_that_the_filters_admit(
    tmp_path: Path, config: dict[str, float], expression: int, expected: float | None
) -> None:
    facts = Expressions(load_data(build(tmp_path, config=config))).facts(expression)
    assert facts.margin == (None if expected is None else pytest.approx(expected))


@pytest.mark.parametrize("empty", ["count", "skip"])
def test_failures_are_those_below_one_half_by_regret(tmp_path: Path, empty: str) -> None:
    data = load_data(build(tmp_path, config={"empty": empty}))
    counted = [e for e in range(6) if empty == "count" or OURS[e] >= 0]
    failed = [e for e in counted if iou(e, OURS[e]) <= 0.5]
    assert failed
    failures = Expressions(data).failures()
    assert (failures.total, failures.expressions) == (len(failed), len(counted))
    regrets = [facts.regret or 0 for facts in failures.rows]
    assert regrets == sorted(regrets, reverse=True)
    assert {facts.expression_id - 100 for facts in failures.rows} == set(failed)
    few = Expressions(data).failures(listed=1)
    assert few.total == failures.total
    for group in GROUPS:
        own = [facts for facts in failures.rows if (facts.dataset, facts.split) == group]
        assert [f.regret for f in few.rows if (f.dataset, f.split) == group] == [f.regret for f in own[:1]]


@pytest.mark.parametrize("empty", ["count", "skip"])
def test_the_gap_is_proposal_error_and_choice_error(tmp_path: Path, no_vega: None, empty: str) -> None:
    paths = build(tmp_path, config={"empty": empty})
    found = {(line.dataset, line.split): line for line in gap.gaps(load_data(paths))}
    page, _ = make(paths)
    for group, members in zip(GROUPS, ([0, 1, 2], [3, 4, 5]), strict=True):
        counted = [e for e in members if empty == "count" or OURS[e] >= 0]
        line, n = found[group], len(counted)
        ours, bound = [iou(e, OURS[e]) for e in counted], [best(e) for e in counted]
        assert line.miou == pytest.approx(sum(ours) / n)
        assert line.proposal_error == pytest.approx(sum(1 - b for b in bound) / n)
        assert line.choice_error == pytest.approx(sum(b - o for b, o in zip(bound, ours, strict=True)) / n)
        assert line.miou + line.choice_error + line.proposal_error == pytest.approx(1)
        assert line.failed == sum(o <= 0.5 for o in ours)
        assert line.proposal_failed == sum(b <= 0.5 for b in bound)
        (row,) = page.tags("tr", data_gap=" ".join(group))
        shown = {c.attributes["data-column"]: c.text.strip() for c in row.tags("td") if "data-column" in c.attributes}
        assert [float(shown[name]) for name in ("miou", "choice", "proposal")] == pytest.approx(
            [100 * line.miou, 100 * line.choice_error, 100 * line.proposal_error], abs=0.00501
        )
        assert [int(shown[name]) for name in ("n", "failed", "none")] == [n, line.failed, line.proposal_failed]


def with_miou(paths: report.Paths, **by_rule: float) -> None:
    """Set the mIoU of rules in the first split, and take every other split's single features below global_local."""
    metrics = data_sets(paths.metrics)
    for dataset, split in GROUPS:
        for rule in ("global", "cropping"):
            metrics[dataset][split][rule]["miou"] = 0.0
    for rule, value in by_rule.items():
        metrics[GROUPS[0][0]][GROUPS[0][1]][rule]["miou"] = value
    set_metrics(paths, metrics)


def test_a_single_feature_above_the_mixed_one_is_said_with_its_numbers(tmp_path: Path, no_vega: None) -> None:
    paths = build(tmp_path)
    with_miou(paths, global_local=0.4, cropping=0.5, **{"global": 0.3})
    page, _ = make(paths)
    (line,) = page.tags("li", data_place="refshapes val")
    assert line.attributes["data-single"] == "cropping"
    text = " ".join(line.text.split())
    assert "Cropping has mIoU 50.00, global-local 40.00 (+10.00 points, 95 % interval" in text
    others, ours = CHOSEN["chosen.cropping"][:3], OURS[:3]
    differ = [e for e in range(3) if others[e] != ours[e]]
    better = sum(iou(e, others[e]) > iou(e, ours[e]) for e in range(3))
    worse = sum(iou(e, others[e]) < iou(e, ours[e]) for e in range(3))
    assert f"choose differently for {len(differ)} of 3 expressions" in text
    assert f"higher IoU for {better} and the lower for {worse}" in text
    change = [100 * (iou(e, others[e]) - iou(e, ours[e])) for e in range(3)]  # only expression 2 has such a word
    without = f"{(change[0] + change[1]) / 2:+.2f} over 2 expressions without a word"
    assert without.replace("-", "−") in text
    assert f"{change[2]:+.2f} over 1 expression with a word".replace("-", "−") in text
    grid = data_sets(paths.grid)
    column = [row[2] for row in grid["splits"]["refshapes"]["val"]["miou"]]  # beta 0.5 is the third of five
    peak = max(range(5), key=lambda place: column[place])
    assert (
        f"Over α at β 0.5 mIoU is highest at α {0.25 * peak:g} with {100 * column[peak]:.2f}; α in use is 0.85" in text
    )


def test_nothing_is_said_where_the_mixed_feature_is_best(tmp_path: Path, no_vega: None) -> None:
    paths = build(tmp_path)
    with_miou(paths, global_local=0.4, cropping=0.4)
    page, _ = make(paths)
    assert not page.find(lambda e: e.attributes.get("id") == "singles")


NAMES = st.text(min_size=1, max_size=8)


@given(NAMES, NAMES, st.integers(0, 9), NAMES, NAMES, st.integers(0, 9))
def test_no_two_expressions_share_an_address(a: str, b: str, c: int, d: str, e: str, f: int) -> None:
    assert (anchor_of(a, b, c) == anchor_of(d, e, f)) == ((a, b, c) == (d, e, f))


@given(NAMES, NAMES)
def test_an_address_needs_no_quoting(dataset: str, split: str) -> None:
    anchor = anchor_of(dataset, split, 7)
    assert anchor.isascii()
    assert not set(anchor) & set(" %#\"'<>&\\")
