"""What is written in the data cannot change the page: the chart library is put in by the template, not searched for."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.deps import code_deps
from stages.page import page
from tests.helpers import report_page
from tests.helpers.profile import ROOT
from tests.helpers.report_page import build, card, make

LIBRARY = "window.vegaEmbed = null; /* the chart library, with {{ braces }} and a </ in a pattern */"
MARKERS = "/*vega*/ {{ library }} {% raw %} $& \\1 the disc"


def test_an_expression_cannot_take_the_place_of_the_chart_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "_vega", lambda folder: LIBRARY)
    monkeypatch.setattr(report_page, "TEXTS", [MARKERS, *report_page.TEXTS[1:]])
    made, _ = make(build(tmp_path))
    assert card(made, 0).classed("expression")[0].text == f"“{MARKERS}”"
    assert [script.text for script in made.tags("script")].count(LIBRARY) == 1
    assert sum(LIBRARY in value for e in made.find(lambda e: True) for value in e.attributes.values()) == 0


def test_an_edited_template_makes_the_report_again() -> None:
    templates = ROOT / "stages/page/templates"
    assert any(templates.iterdir())
    watched = {stage: {ROOT / dep for dep in code_deps(stage)} for stage in ("report", "score")}
    assert watched["report"] & {templates, *templates.parents}
    assert not watched["score"] & {templates, *templates.parents}
