"""The page's section of searches: what each found, its path as a chart, what it is worth on the other splits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from stages.page.charts import percent
from tests.helpers.documents import changed
from tests.helpers.report_page import HOSTILE, Element, build, make, without_vega

no_vega = pytest.fixture(without_vega)

OURS = [("mine", "val"), ("mine", "testA"), ("cut", "test")]


def line_of(dataset: str, split: str, searched: int, n: int) -> dict[str, Any]:
    measured = {"a": 0.41, "b": 0.4375, "difference": -0.0275, "ci": [-0.05, 0.0125], "p": 0.25} if n else {}
    empty = {"a": None, "b": None, "difference": None}
    cells = dict.fromkeys(("oiou", "miou", "p50"), measured or empty)
    return {"dataset": dataset, "split": split, "searched": searched, "n": n, **cells}


def found() -> dict[str, Any]:
    return {
        "rule": "global_local",
        "on": ["mine/val"],
        "measure": "miou",
        "ranges": {"alpha": [0, 1]},
        "found": {"alpha": 0.2864},
        "tried": 64,
        "start": 0.31,
        "best": 0.35,
        "path": [{"tried": 1, "value": 0.3}, {"tried": 9, "value": 0.35}],
        "splits": [line_of("mine", "testA", 3, 17), line_of("cut", "test", 12, 0)],
    }


def test_searches_stand_on_the_page(tmp_path: Path, no_vega: None) -> None:
    paths = build(tmp_path, OURS)
    page, _ = make(paths)
    assert not page.tags("section", id="searches")
    with changed(paths.ablations) as content:
        content["tuned"] = {HOSTILE: found()}
    page, _ = make(paths)
    (section,) = page.tags("section", id="searches")
    assert len(page.tags("a", href="#searches")) == 1
    rows = [[c.text.strip() for c in row.children if isinstance(c, Element)] for row in section.tags("tr")]
    assert [row[:2] for row in rows] == [["data set", "split"], ["mine", "testA"]], "no row without an expression"
    assert rows[1][2:4] == ["41.0041.00", "43.7543.75"]
    assert " ".join(rows[1][4].split()) == "−2.75−5.00 to +1.25, p 0.250"
    assert rows[1][5] == "17"
    text = " ".join(section.text.split())
    assert "Searched on mine/val; 64 points tried. Found: alpha = 0.2864." in text
    assert "3 of mine testA, 12 of cut test" in text
    assert "No point tried is better" not in text
    assert " ".join(HOSTILE.split()) in text


def test_the_path_is_a_chart(tmp_path: Path, no_vega: None) -> None:
    paths = build(tmp_path, OURS)
    with changed(paths.ablations) as content:
        content["tuned"] = {"point": found() | {"start": 0.35}}
    page, _ = make(paths)
    (script,) = page.tags("script", id="specs")
    chart = json.loads(script.text)["search-0"]
    steps = [(step["tried"], step["value"]) for step in chart["layer"][0]["data"]["values"]]
    assert steps == [(1, percent(0.3)), (9, percent(0.35)), (64, percent(0.35))]
    assert "after 64 points" in chart["description"]
    assert page.tags("div", id="search-0")
    (section,) = page.tags("section", id="searches")
    assert "No point tried is better there than the profile's own." in " ".join(section.text.split())
