"""Splits without a ground truth: choices and margins, no IoU anywhere; and pictures whose images are gone."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from stages.page import gap
from stages.page.data import load_data
from stages.page.expressions import Expressions
from tests.helpers.report_page import CHOSEN, GROUPS, SCORES, Element, build, card, make, without_vega

no_vega = pytest.fixture(without_vega)
OURS = CHOSEN["chosen.global_local"]
MARGINS = {
    e: SCORES[e][OURS[e]] - max(s for p, s in enumerate(SCORES[e]) if p != OURS[e]) for e in range(6) if OURS[e] >= 0
}
METRIC_SECTIONS = ("results", "gap", "reported", "surface", "iou", "ablations")


def ids(page: Element) -> set[str]:
    return {e.attributes["id"] for e in page.tags("section")}


def test_a_run_without_any_ground_truth_shows_choices_and_margins_and_no_iou(tmp_path: Path, no_vega: None) -> None:
    page, _ = make(build(tmp_path, without_truth=[0, 1]))
    assert not ids(page) & set(METRIC_SECTIONS)
    assert {"choices", "expressions", "stages", "parameters"} <= ids(page)
    links = {a.attributes["href"][1:] for a in page.tags("nav")[0].tags("a")}
    assert links == ids(page), "every section has its link, and no link leads nowhere"
    visible = " ".join(e.text for e in page.tags("section"))
    assert not re.search(r"IoU\s*[\d–]|0\.000", visible)
    assert json.loads(page.tags("script", id="specs")[0].text) == {}
    for expression, expected in MARGINS.items():
        shown = card(page, expression)
        assert f"margin {expected:.2f}" in " ".join(shown.text.split())
        assert not shown.classed("verdict")
        assert "data-iou" not in shown.attributes
        assert "data-regret" not in shown.attributes
        scores = sorted(SCORES[expression], reverse=True)
        assert [line.text.split()[1] for line in shown.tags("li")] == [f"{score:.2f}" for score in scores[:3]]
    assert "no ground truth" not in page.tags("section", id="reasons")[0].text, "nothing is wrong with these rows"
    form = {e.attributes["name"] for e in page.tags("form", id="filters")[0].find(lambda e: "name" in e.attributes)}
    assert "margin" in form
    assert not form & {"iou", "regret"}


def test_quartiles_of_margins_and_agreement_are_counted(tmp_path: Path, no_vega: None) -> None:
    paths = build(tmp_path, without_truth=[1])
    (line,) = gap.choices(Expressions(load_data(paths)))
    own = [3, 4]  # expression 5 has no proposal
    assert (line.dataset, line.split, line.expressions, line.chosen, line.only) == (*GROUPS[1], 3, 2, 0)
    assert line.margin == pytest.approx(tuple(np.quantile([MARGINS[e] for e in own], [0.25, 0.5, 0.75])))
    assert line.agree == sum(OURS[e] == CHOSEN["chosen.cropping"][e] for e in own)
    page, _ = make(paths)
    (row,) = page.tags("tr", data_choices="other test")
    cells = [cell.text.strip() for cell in row.tags("td")]
    assert cells == ["3", "2", "0", *(f"{value:.2f}" for value in line.margin or ()), str(line.agree)]


def test_beside_a_measured_split_the_other_is_in_no_table_of_metrics(tmp_path: Path, no_vega: None) -> None:
    page, _ = make(build(tmp_path, without_truth=[1]))
    for name in METRIC_SECTIONS:
        (section,) = page.tags("section", id=name)
        if name != "reported":
            assert "other test" not in " ".join(section.text.split())
            assert "val" in section.text
    specs = json.loads(page.tags("script", id="specs")[0].text)
    assert set(specs) == {"heat-0", "curves-0", "iou-0"} == {e.attributes["id"] for e in page.classed("chart")}
    assert "choices" in ids(page)
    assert card(page, 0).classed("verdict")
    assert not card(page, 4).classed("verdict")
    kinds = {option.attributes["value"] for option in page.tags("select", name="kind")[0].tags("option")}
    assert kinds == {"", "best", "worst", "wide", "narrow", "differ"}


def test_kinds_without_a_ground_truth_are_by_margin(tmp_path: Path, no_vega: None) -> None:
    page, _ = make(build(tmp_path, without_truth=[0, 1]), cards=1)
    for members in ([0, 1, 2], [3, 4]):
        cards = [figure for e in members for figure in page.tags("figure", data_expression=str(100 + e))]
        kinds = {int(c.attributes["data-expression"]) - 100: c.attributes["data-kinds"].split() for c in cards}
        assert [e for e, own in kinds.items() if "wide" in own] == [max(members, key=lambda e: MARGINS[e])]
        assert [e for e, own in kinds.items() if "narrow" in own] == [min(members, key=lambda e: MARGINS[e])]


def test_missing_pictures_are_counted_with_a_remedy(tmp_path: Path, no_vega: None) -> None:
    paths = build(tmp_path)
    whole, _ = make(paths)
    assert not whole.find(lambda e: e.attributes.get("id") == "no-pictures")
    for image in paths.images.iterdir():
        image.unlink()
    page, summary = make(paths)
    (note,) = page.tags("p", id="no-pictures")
    text = " ".join(note.text.split())
    assert "6 of 6 pictures are missing" in text
    assert "dvc repro --force --single-item dvc.yaml:report" in text
    assert len(summary.skipped) == 6
    assert not page.tags("img")
    assert len(page.classed("card")) == 6, "what is known of each expression stays"
