"""The page: its numbers, pictures and charts against what the stages wrote, escaping, and that it needs no network."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from stages import report
from tests.helpers.documents import data_sets
from tests.helpers.report_page import (
    CHOSEN,
    GROUPS,
    HOSTILE,
    RULES,
    SCORES,
    Element,
    Reader,
    build,
    card,
    iou,
    make,
    without_vega,
)

no_vega = pytest.fixture(without_vega)


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> report.Paths:
    """A report with the real chart library, which takes seconds to bundle; without records."""
    paths = build(tmp_path_factory.mktemp("real"))
    make(paths)
    return paths


@pytest.fixture(scope="module")
def page(real: report.Paths) -> Element:
    return Reader(real.report.read_text(encoding="utf-8")).root


def test_the_table_holds_the_numbers_of_metrics_json(real: report.Paths, page: Element) -> None:
    metrics = data_sets(real.metrics)
    assert len(page.tags("tbody", data_split="val")) == len(page.tags("tbody", data_split="test")) == 1
    for dataset, split in GROUPS:
        (body,) = page.tags("tbody", data_dataset=dataset, data_split=split)
        content = metrics[dataset][split]
        for name, count in zip(content["counts"], body.find(lambda e: "data-count" in e.attributes), strict=True):
            assert int(count.text) == content["counts"][name]
        for rule in RULES:
            (row,) = body.tags("tr", data_rule=rule)
            expected = content[rule] | {f"skip_{name}": value for name, value in content[rule]["skip"].items()}
            for column in ("oiou", "miou", "p50", "p70", "p90", "skip_oiou"):
                (cell,) = row.tags("td", data_column=column)
                assert float(cell.tags("span")[0].text) == pytest.approx(100 * expected[column], abs=0.00501)
            for column in ("oiou", "miou"):
                low, high = row.tags("td", data_column=column)[0].tags("small")[0].text.split("–")
                assert [float(low), float(high)] == pytest.approx(
                    [100 * v for v in expected[f"{column}_ci"]], abs=0.00501
                )
            for column in ("n", "skip_n"):
                assert int(row.tags("td", data_column=column)[0].text) == expected[column]
            assert row.tags("td", data_column="skip_miou")[0].text.strip() == "–"


def test_rules_are_set_against_the_first_one(real: report.Paths, page: Element) -> None:
    for dataset, split in GROUPS:
        (body,) = page.tags("tbody", data_dataset=dataset, data_split=split)
        for rule in RULES:
            (cell,) = body.tags("tr", data_rule=rule)[0].tags("td", data_column="versus")
            versus = data_sets(real.metrics)[dataset][split][rule].get("versus")
            assert (versus is not None) == (rule in ("global", "cropping"))
            if versus is None:
                assert cell.text.strip() == "–"
                continue
            interval, p = cell.tags("small")[0].text.split(", ")
            shown = [cell.tags("span")[0].text, *interval.split(" to ")]
            assert [float(number.replace("−", "-")) for number in shown] == pytest.approx(
                [100 * number for number in (versus["miou"], *versus["miou_ci"])], abs=0.00501
            )
            assert p == ("p < 0.001" if rule == "global" else "p 0.125")
    assert "mIoU less global-local" in page.tags("section", id="results")[0].text


def test_the_best_rule_is_bold_and_the_upper_bound_never(real: report.Paths, page: Element) -> None:
    metrics = json.loads(real.metrics.read_text())["refshapes"]["val"]
    (body,) = page.tags("tbody", data_dataset="refshapes")
    for column in ("oiou", "miou", "p50", "p70", "p90"):
        best = max((rule for rule in RULES if rule != "upper_bound"), key=lambda rule: metrics[rule][column])
        bold = [
            row.attributes["data-rule"]
            for row in body.tags("tr")
            if row.tags("td", data_column=column, **{"class": "best"})
        ]
        assert bold == [best]


def test_text_is_escaped(page: Element) -> None:
    assert len(page.tags("script")) == 3
    assert card(page, 1).attributes["data-text"].startswith(HOSTILE)
    assert card(page, 1).classed("expression")[0].text == f"“{HOSTILE}”"
    assert card(page, 1).tags("img")[0].attributes["alt"] == HOSTILE
    assert card(page, 2).classed("expression")[0].text == "“ročí 中文 disc”"
    assert "<b>phrase</b> only" in page.tags("section", id="ablations")[0].text
    assert not page.find(lambda e: any(name.startswith("on") for name in e.attributes))


def test_nothing_is_loaded_from_anywhere(page: Element) -> None:
    for element in page.find(lambda e: True):
        for name in ("src", "href", "action", "srcset", "data"):
            assert element.attributes.get(name, "#").startswith(("data:", "#")), element
    style = page.tags("style")[0].text
    assert "url(" not in style
    assert "@import" not in style
    policy = page.tags("meta", **{"http_equiv": "Content-Security-Policy"})[0].attributes["content"]
    assert policy.startswith("default-src 'none';")
    assert "http" not in policy


def test_kinds_of_pictures(page: Element) -> None:
    ours = [iou(e, CHOSEN["chosen.global_local"][e]) for e in range(6)]
    cropping = [iou(e, CHOSEN["chosen.cropping"][e]) for e in range(6)]
    for members in ([0, 1, 2], [3, 4, 5]):
        kinds = {e: card(page, e).attributes["data-kinds"].split() for e in members}
        assert [e for e in members if "differ" in kinds[e]] == [
            e for e in members if CHOSEN["chosen.global_local"][e] != CHOSEN["chosen.cropping"][e]
        ]
        assert [e for e in members if "best" in kinds[e]] == [
            e for e in members if CHOSEN["chosen.global_local"][e] >= 0
        ]
        assert all("worst" in kinds[e] for e in members)
    for expression in range(5):
        shown = [float(v.tags("b")[0].text) for v in card(page, expression).classed("verdict")]
        bound = max(iou(expression, p) for p in range(len(SCORES[expression])))
        assert shown == pytest.approx([100 * v for v in (ours[expression], cropping[expression], bound)], abs=0.00501)


def test_the_best_proposals_come_with_scores_and_iou(page: Element) -> None:
    for expression, scores in enumerate(SCORES[:5]):
        order = sorted(range(len(scores)), key=lambda p, s=scores: -s[p])
        for line, position in zip(card(page, expression).tags("li"), order, strict=True):
            assert f"score {scores[position]:.2f}" in line.text
            assert f"IoU {100 * iou(expression, position):.2f}" in line.text
            marks = [mark.text for mark in line.classed("mark")]
            ours, cropping = (
                CHOSEN[name][expression] == position for name in ("chosen.global_local", "chosen.cropping")
            )
            assert marks == (
                ["both"] if ours and cropping else ["chosen"] if ours else ["cropping"] if cropping else []
            )


def test_an_expression_without_a_choice_is_shown(page: Element) -> None:
    lost = card(page, 5)
    assert "No proposal to choose from." in lost.text
    assert [v.tags("b")[0].text for v in lost.classed("verdict")] == ["–"] * 3
    assert lost.classed("phrase")[0].text == "noun phrase: none"
    assert lost.tags("img")


def test_rows_with_a_reason_are_grouped_by_it(page: Element) -> None:
    rows = [
        [c.text.strip() for c in row.children if isinstance(c, Element)]
        for row in page.tags("section", id="reasons")[0].tags("tr")[1:]
    ]
    assert ["image", "1", "without proposals", "no proposal above the thresholds", "2.png"] in rows
    assert ["text", "1", "odd", "empty sentence", "expression 105"] in rows
    assert len(rows) == 2


def test_the_warning_about_synthetic_scenes_is_for_refshapes_only(tmp_path: Path, page: Element, no_vega: None) -> None:
    assert (
        "nothing about the method's quality on photographs"
        in page.find(lambda e: e.attributes.get("id") == "synthetic")[0].text
    )
    other, _ = make(build(tmp_path, [("refcoco", "val"), ("refcocog", "test")]))
    assert not other.find(lambda e: e.attributes.get("id") == "synthetic")


def test_parameters_are_shown(page: Element) -> None:
    text = page.tags("section", id="parameters")[0].text
    assert "0123456789ab…" in text
    for part in ("alpha", "0.85", "thresholds.score", "0.1", "spacy_model", "val, test"):
        assert part in text


def test_heat_maps_hold_the_surface_and_both_points(real: report.Paths, page: Element) -> None:
    specs = json.loads(page.tags("script", id="specs")[0].text)
    grid, metrics = json.loads(real.grid.read_text()), data_sets(real.metrics)
    names = {f"{kind}-{group}" for kind in ("heat", "curves", "iou") for group in (0, 1)}
    assert set(specs) == names == {e.attributes["id"] for e in page.classed("chart")}
    for group, (dataset, split) in enumerate(GROUPS):
        surface = grid["splits"][dataset][split]
        cells, best, used = specs[f"heat-{group}"]["layer"]
        assert len(cells["data"]["values"]) == 25
        for cell in cells["data"]["values"]:
            at = (grid["alphas"].index(cell["alpha"]), grid["betas"].index(cell["beta"]))
            for metric in ("oiou", "miou"):
                assert cell[metric] == pytest.approx(100 * np.array(surface[metric])[at], abs=0.00501)
            assert cell["a0"] <= cell["alpha"] <= cell["a1"]
        values = {(p["point"], p["metric"]): (p["alpha"], p["beta"], p["value"]) for p in used["data"]["values"]}
        ours, alpha = metrics[dataset][split]["global_local"], 0.25 if dataset == "other" else 0.85
        for metric in ("oiou", "miou"):
            assert values["in use", metric] == (alpha, 0.5, round(100 * ours[metric], 2))
        assert values["best", "oiou"] == (0.25, 0.75, 90.0)
        assert "'best'" in best["transform"][0]["filter"]
        assert "'in use'" in used["transform"][0]["filter"]
