"""The page's section of rules: formulas as registered, and gains by class against plain means."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from stages.page.comparison import signed
from stages.page.data import load_data
from stages.page.rules import CLASSES, classes, rules
from stages.scoring.rules.known import RULES
from tests.helpers.report_page import Element, build, make, without_vega

no_vega = pytest.fixture(without_vega)
OURS = [("mine", "val"), ("mine", "testA"), ("cut", "test")]
BOOTSTRAP = {"resamples": 40, "seed": 0}


def test_gains_are_plain_means_of_each_class(tmp_path: Path) -> None:
    data = load_data(build(tmp_path, OURS, config=BOOTSTRAP))
    found = {rule["rule"]: rule for rule in rules(data)}
    assert next(iter(found)) == data.main
    assert found[data.main]["gains"] == []
    assert "upper_bound" not in found
    gains = found["cropping"]["gains"]
    measured = [data.groups[data.group[e]][0] for e in np.flatnonzero(data.evaluated)]
    assert [line["dataset"] for line in gains] == list(dict.fromkeys(measured))
    members = list(classes(data).values())
    for line in gains:
        for rows, cell in zip(members, line["cells"], strict=True):
            own = [e for e in rows if data.groups[data.group[e]][0] == line["dataset"] and data.evaluated[e]]
            if len({data.pairs["expression_image"][e] for e in own}) < 2:  # no other image to draw
                assert cell is None
                continue
            mean = np.mean([data.iou["cropping"][e] - data.iou[data.main][e] for e in own])
            assert cell["n"] == len(own)
            assert cell["miou"] == pytest.approx(mean, abs=1e-11)
            assert cell["miou_ci"][0] - 1e-9 <= cell["miou"] <= cell["miou_ci"][1] + 1e-9


def test_what_a_rule_is_stands_as_it_is_registered(tmp_path: Path) -> None:
    data = load_data(build(tmp_path, OURS))
    found = {rule["rule"]: rule for rule in rules(data)}
    assert found["cropping"]["formula"] == RULES["cropping"].formula
    assert found["cropping"]["needs"] == ", ".join(
        f"{view} × {text}" for view, text in RULES["cropping"].needs(data.scoring, RULES["cropping"].settings())
    )


def test_the_page_shows_them(tmp_path: Path, no_vega: None) -> None:
    paths = build(tmp_path, OURS, config=BOOTSTRAP)
    data = load_data(paths)
    page, _ = make(paths)
    (section,) = page.tags("section", id="rules")
    assert len(page.tags("a", href="#rules")) == 1
    expected = {
        (rule["rule"], line["dataset"]): [cell and signed(100 * cell["miou"]) for cell in line["cells"]]
        for rule in rules(data)
        for line in rule["gains"]
    }
    shown = {}
    for row in section.tags("tr"):
        if "data-rule" in row.attributes:
            cells = [c for c in row.children if isinstance(c, Element) and c.tag == "td"][1:]
            place = (row.attributes["data-rule"], row.attributes["data-dataset"])
            shown[place] = [c.tags("span")[0].text if c.tags("span") else None for c in cells]
    assert shown == expected
    assert {rule for rule, _ in shown} == {"global", "cropping"}
    assert all(len(cells) == len(CLASSES) for cells in shown.values())
    assert {e.text for e in section.tags("dt")} == {rule["label"] for rule in rules(data)}
