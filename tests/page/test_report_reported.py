"""The reported numbers and how the page sets ours beside them; the differences from the release; warnings."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from stages import report
from stages.datasets.choice import published_split
from stages.page.comparison import AS_CONFIGURED, SWITCHES, differences, signed, switches
from stages.page.reported import ENCODERS, MARKS, METRICS, PHRASECUT, ROWS, SPLITS
from tests.helpers.documents import changed, data_sets, write_record
from tests.helpers.report_page import HOSTILE, PAPER_ENCODER, Element, build, make, set_metrics, without_vega

no_vega = pytest.fixture(without_vega)

ORIGINS = {
    "mine": {"folder": "refcoco", "split_by": "unc"},
    "cut": {"kind": "phrasecut", "folder": "VGPhraseCut", "categories": "all"},
}
OURS: list[tuple[str, str]] = [("mine", "testB"), ("cut", "test")]
AS_PAPER: dict[str, dict[str, Any]] = {
    "index": {"polygon_overlap": "reference"},
    "proposals": {"box": "reference", "short_side": 800},
    "parse": {"spacy_model": "en_core_web_lg"},
}


def cells(row: Element) -> dict[str, str]:
    """Column -> text of a line of the comparison; of a reported number with its mark."""
    return {c.attributes["data-column"]: " ".join(c.text.split()) for c in row.tags("td")}


def lines_of(page: Element, group: str) -> dict[str, dict[str, str]]:
    (body,) = page.tags("tbody", data_reported=group)
    return {row.attributes["data-system"]: cells(row) for row in body.tags("tr") if "data-system" in row.attributes}


# The numbers.


def test_numbers_stand_at_their_splits() -> None:
    """Four numbers from the middle and the end of the papers' rows, typed again."""
    by_name = {(row.label, row.encoder): row for row in ROWS}
    ours, hybrid = by_name["Global-local", "ViT-B/32"], by_name["HybridGL, SAM's masks", ""]
    assert ours.at(("refcoco+", "unc", "testB"))["oiou"].text == "25.83"
    assert ours.at(("refcocog", "umd", "test"))["miou"].text == "33.67"
    assert by_name["Cropping", "RN50"].at(("refcoco", "unc", "testA"))["oiou"].text == "20.49"
    assert hybrid.at(("refcocog", "umd", "val"))["miou"].text == "51.25"
    assert hybrid.at(("refcocog", "google", "val")) == hybrid.at(PHRASECUT) == {}


def test_every_number_has_a_mark_and_the_weakest_ones_are_not_called_verified() -> None:
    ours = next(row for row in ROWS if (row.rule, row.encoder) == ("global_local", "ViT-B/32"))
    assert ours.numbers["oiou"]["refcocog", "google", "val"].mark == "recalled"
    assert {number.mark for split, number in ours.numbers["oiou"].items() if split[1] != "google"} == {"partly"}
    assert {number.mark for number in ours.numbers["miou"].values()} == {"verified"}
    found = {n.mark for row in ROWS for metric in METRICS for n in row.numbers[metric].values()}
    assert found == set(MARKS)
    assert {n.mark for row in ROWS if row.encoder == "RN50" for n in row.at(SPLITS[0]).values()} == {"recalled"}


def test_no_choice_among_the_same_masks_is_reported_above_their_upper_bound() -> None:
    (bound,) = (row for row in ROWS if row.rule == "upper_bound")
    for row in ROWS:
        if "SAM" not in row.label and row is not bound:
            for metric in METRICS:
                for split in row.numbers[metric].keys() & set(SPLITS):
                    assert row.numbers[metric][split].value < bound.numbers[metric][split].value


@pytest.mark.parametrize(
    ("origin", "split", "known"),
    [
        ({"folder": "refcoco", "split_by": "unc"}, "testA", True),
        ({"folder": "refer/refcoco+", "split_by": "unc", "kind": "refer"}, "val", True),
        ({"folder": "refcocog", "split_by": "google"}, "val", True),
        ({"folder": "refcocog", "split_by": "umd"}, "test", True),
        ({"kind": "phrasecut", "folder": "x", "categories": "all"}, "test", True),
        ({"kind": "phrasecut"}, "test", True),
        ({"folder": "refcoco", "split_by": "google"}, "val", False),
        ({"folder": "refcocog", "split_by": "google"}, "test", False),
        ({"folder": "refcocog", "split_by": "umd"}, "testA", False),
        ({"folder": "refclef", "split_by": "unc"}, "val", False),
        ({"kind": "phrasecut", "categories": "unseen"}, "test", False),
        ({"kind": "phrasecut", "categories": "all"}, "val", False),
        ({"folder": "phrasecut", "split_by": "all"}, "train", False),
        ({"folder": "refcoco", "split_by": "unc", "categories": "unseen"}, "val", False),
        ({"kind": "of a file that is gone", "folder": "refcoco", "split_by": "unc"}, "val", False),
        ({}, "val", False),
    ],
)
def test_a_split_is_known_by_where_it_comes_from(origin: dict[str, str], split: str, known: bool) -> None:
    paper = published_split(origin, split)
    assert (paper in (*SPLITS, PHRASECUT)) == known
    assert any(row.at(paper) for row in ROWS if paper) == known


# The section of the page.


def with_skips(paths: report.Paths, dataset: str, split: str, **values: float | None) -> None:
    """Set the ``skip`` numbers of all rules of a split."""
    metrics = data_sets(paths.metrics)
    for rule, content in metrics[dataset][split].items():
        if rule != "counts":
            content["skip"] = {"oiou": None, "miou": None, "n": 1234} | values
    set_metrics(paths, metrics)


def test_without_reported_numbers_the_section_is_a_sentence(tmp_path: Path, no_vega: None) -> None:
    """Also where a data set only has a known name."""
    page, _ = make(build(tmp_path, [("refcoco", "val"), ("refshapes", "val")]))
    (section,) = page.tags("section", id="reported")
    assert "None is reported of the splits of this run" in section.text
    assert len(section.tags("p")) == 1
    assert not section.tags("table")


@pytest.mark.parametrize(
    ("score_rule", "encoder", "other"), [("cosine", "ViT-B/32", "RN50"), ("unnormalised", "RN50", "ViT-B/32")]
)
def test_ours_stand_beside_the_reported_numbers(
    tmp_path: Path, no_vega: None, score_rule: str, encoder: str, other: str
) -> None:
    paths = build(tmp_path, OURS, origins=ORIGINS, score_rule=score_rule, encoder=PAPER_ENCODER | {"standard": encoder})
    with_skips(paths, "mine", "testB", oiou=0.2519, miou=0.25)
    page, _ = make(paths)
    lines = lines_of(page, "mine testB")
    expected = {
        row.label: row.at(("refcoco", "unc", "testB")) for row in ROWS if row.rule and row.encoder in ("", encoder)
    }
    for rule in ("Global-local", "Cropping", "Upper bound of FreeSOLO's masks"):
        for metric, ours in (("oiou", "25.19"), ("miou", "25.00")):
            number = expected[rule][metric]
            assert lines[rule][metric] == ours
            assert lines[rule][f"{metric}_reported"] == f"{number.text}{number.mark}"
            shown = lines[rule][f"{metric}_difference"].replace("−", "-")
            assert Decimal(shown) == Decimal(ours) - Decimal(number.text)
            assert shown[0] in "+-"
    section = page.tags("section", id="reported")[0]
    assert f"The encoder of this run is {encoder}" in " ".join(section.text.split())
    ours_rows = [
        r for r in section.tags("tr") if "data-system" in r.attributes and "other" not in r.attributes.get("class", "")
    ]
    assert not any(other in small.text for row in ours_rows for small in row.tags("th")[0].tags("small"))
    assert "1,234 expressions with a choice" in section.text


def test_an_encoder_that_the_paper_does_not_report_is_not_taken_for_one_that_it_does(
    tmp_path: Path, no_vega: None
) -> None:
    """A ViT-B/16 scores by cosines, as ViT-B/32 does; its numbers are compared with nobody's."""
    other = PAPER_ENCODER | {"standard": "ViT-B/16", "architecture": "ViT-B-16-quickgelu", "weights": "1" * 64}
    paths = build(tmp_path, OURS, origins=ORIGINS, encoder=other)
    with_skips(paths, "mine", "testB", oiou=0.2519, miou=0.25)
    page, _ = make(paths)
    section = page.tags("section", id="reported")[0]
    text = " ".join(section.text.split())
    assert "The encoder of this run, ViT-B/16, is none that the paper reports" in text
    rows = [row for row in section.tags("tr") if "data-system" in row.attributes]
    compared = {row.attributes["data-system"] for row in rows if "other" not in row.attributes.get("class", "")}
    assert compared <= {"Upper bound of FreeSOLO's masks", "Global-local, encoder not stated"}


def test_other_weights_of_a_reported_encoder_are_a_departure(tmp_path: Path, no_vega: None) -> None:
    config = {"alpha": 0.95, "alpha_by_dataset": {"cut": 0.2}, "beta": 0.5}
    other = PAPER_ENCODER | {"weights": "1" * 64}
    page, _ = make(build(tmp_path, OURS, config, ORIGINS, configs=AS_PAPER, encoder=other))
    (line,) = departures_of(page)
    assert line.startswith("weights of the encoder: sha256 111111111111…, in the paper OpenAI's, sha256 40d365715913…")


def test_other_systems_are_only_reported(tmp_path: Path, no_vega: None) -> None:
    page, _ = make(build(tmp_path, OURS, origins=ORIGINS))
    lines = lines_of(page, "mine testB")
    rows = [row for row in ROWS if row.rule is None and row.at(("refcoco", "unc", "testB"))]
    assert {row.label for row in rows} == {
        "CaR, its own masks",
        "TAS, SAM's masks",
        "HybridGL, SAM's masks",
    }
    assert list(lines)[-len(rows) :] == [row.label for row in rows]
    for row in rows:
        assert [lines[row.label][f"{m}{end}"] for m in METRICS for end in ("", "_difference")] == ["–"] * 4
    assert lines["TAS, SAM's masks"]["oiou_reported"] == "28.2verified"
    assert lines["TAS, SAM's masks"]["miou_reported"] == "–"


def test_a_metric_without_a_number_has_no_difference(tmp_path: Path, no_vega: None) -> None:
    paths = build(
        tmp_path,
        [("cut", "test"), ("cut2", "test")],
        origins=ORIGINS | {"cut2": ORIGINS["cut"] | {"categories": "unseen"}},
    )
    with_skips(paths, "cut", "test", oiou=0.2, miou=None)
    page, _ = make(paths)
    lines = lines_of(page, "cut test")
    assert lines == {
        "Global-local, encoder not stated": {
            **{"oiou": "20.00", "oiou_reported": "23.64verified", "oiou_difference": "−3.64"},
            **{"miou": "–", "miou_reported": "–", "miou_difference": "–"},
        }
    }
    text = page.tags("section", id="reported")[0].text
    assert "Nothing is reported of cut2 test." in text
    assert not page.tags("tbody", data_reported="cut2 test")


def test_the_marks_are_explained_and_the_table_has_headings(tmp_path: Path, no_vega: None) -> None:
    page, _ = make(build(tmp_path, OURS, origins=ORIGINS))
    (section,) = page.tags("section", id="reported")
    names, meanings = ([e.text for e in section.tags(tag)] for tag in ("dt", "dd"))
    assert dict(zip(names, meanings, strict=True)) == MARKS
    (table,) = section.tags("table")
    assert len(table.tags("caption")) == 1
    assert all("scope" in heading.attributes for heading in table.tags("th"))
    assert all(len(row.tags("td")) == 6 for row in table.tags("tr") if "data-system" in row.attributes)


def departures_of(page: Element) -> set[str]:
    return {" ".join(line.text.split()) for line in page.tags("section", id="reported")[0].tags("li")}


def test_settings_that_are_not_the_papers_are_listed(tmp_path: Path, no_vega: None) -> None:
    config = {"alpha": 0.85, "alpha_by_dataset": {"cut": 0.1}, "beta": 0.25, "k": 2, "top_n": 0, "min_score": 0.5}
    origins = ORIGINS | {"g": {"folder": "refcocog", "split_by": "umd"}}
    groups = [("mine", "testB"), ("g", "val"), ("cut", "test")]
    configs = {"index": {"polygon_overlap": "union"}, "proposals": AS_PAPER["proposals"] | {"source": "coco"}}
    page, _ = make(build(tmp_path / "a", groups, config, origins, configs=configs))
    assert departures_of(page) == {
        "index.polygon_overlap: union, in the paper reference",
        "propose.source: coco, in the paper freesolo",
        "parse.spacy_model: sm, in the paper en_core_web_lg",
        "score.beta: 0.25, in the paper 0.5",
        "score.k: 2, in the paper 3",
        "score.min_score: 0.5, in the paper 0",
        "score.alpha of mine: 0.85, in the paper 0.95",
    }
    rn50 = PAPER_ENCODER | {"standard": "RN50", "weights": ENCODERS["RN50"]}
    page, _ = make(build(tmp_path / "b", groups, config, origins, "unnormalised", configs, rn50))
    assert not any("score.k" in line for line in departures_of(page))


def test_the_papers_settings_are_said_to_be_so(tmp_path: Path, no_vega: None) -> None:
    config = {"alpha": 0.95, "alpha_by_dataset": {"cut": 0.2}, "beta": 0.5}
    page, _ = make(build(tmp_path, OURS, config, ORIGINS, configs=AS_PAPER))
    assert "The settings that this run's tables hold are the paper's." in page.tags("section", id="reported")[0].text
    assert not departures_of(page)


@pytest.mark.parametrize("empty", ["count", "skip"])
def test_the_page_says_which_numbers_are_compared(tmp_path: Path, no_vega: None, empty: str) -> None:
    page, _ = make(build(tmp_path, OURS, {"empty": empty}, ORIGINS))
    text = " ".join(page.tags("section", id="reported")[0].text.split())
    assert "Ours are the “skip” numbers" in text
    assert ("The run's own setting counts them with IoU 0" in text) == (empty == "count")


@pytest.mark.parametrize(
    ("points", "text"),
    [(None, "–"), (1.234, "+1.23"), (-0.5, "−0.50"), (-0.001, "+0.00"), (0.0, "+0.00"), (-12.0, "−12.00")],
)
def test_differences_have_a_sign(points: float | None, text: str) -> None:
    assert signed(points) == text


# Deliberate differences from the release.


def difference_rows() -> list[dict[str, Any]]:
    """Two switches in two splits; the second setting of one is missing in a split, one value is None."""

    def row(
        name: str, setting: str, group: tuple[str, str], oiou: float, miou: float | None, release: bool = False
    ) -> dict[str, Any]:
        at = {"dataset": group[0], "split": group[1]}
        return {"name": name, "setting": setting, "release": release, **at, "oiou": oiou, "miou": miou, "n": 9}

    a, b = OURS
    return [
        row("fill", "fill = mean", a, 0.31, 0.42),
        row("fill", "fill = mean", b, 0.5, 0.25),
        row("antialias", "antialias = never", a, 0.305, None, True),
        row(AS_CONFIGURED, "as configured", a, 0.3, 0.4),
        row(AS_CONFIGURED, "as configured", b, 0.5, 0.3),
        row("unheard of", HOSTILE, b, 0.125, 0.5),
    ]


def test_changes_are_against_the_run_as_configured() -> None:
    lines = differences(difference_rows(), OURS)
    assert [(line["name"], line["release"]) for line in lines] == [
        (AS_CONFIGURED, False),
        ("fill", False),
        ("antialias", True),
        ("unheard of", False),
    ]
    configured, fill, antialias, unknown = (line["cells"] for line in lines)
    assert configured[0] == {"oiou": 0.3, "miou": 0.4, "oiou_change": None, "miou_change": None}
    assert [fill[g][f"{m}_change"] for g in (0, 1) for m in METRICS] == pytest.approx([1.0, 2.0, 0.0, -5.0])
    assert antialias[0]["oiou_change"] == pytest.approx(0.5)
    assert (antialias[0]["miou_change"], antialias[1]) == (None, None)
    assert unknown[1]["miou_change"] == pytest.approx(20.0)
    assert switches(lines) == [("fill", SWITCHES["fill"]), ("antialias", SWITCHES["antialias"])]
    without = differences([row for row in difference_rows() if row["name"] != AS_CONFIGURED], OURS)
    assert all(cell[f"{m}_change"] is None for line in without for cell in line["cells"] if cell for m in METRICS)


def test_the_differences_are_a_table_of_the_page(tmp_path: Path, no_vega: None) -> None:
    paths = build(tmp_path, OURS)
    page, _ = make(paths)
    assert not page.tags("section", id="differences")
    for rows in ([], difference_rows()):
        with changed(paths.ablations) as tried:
            tried["differences"] = rows
        page, _ = make(paths)
        assert len(page.tags("section", id="differences")) == bool(rows)
        assert len(page.tags("a", href="#differences")) == bool(rows)
    (section,) = page.tags("section", id="differences")
    shown = {
        table.attributes["data-table"]: [
            [" ".join(c.text.split()) for c in row.children if isinstance(c, Element)] for row in table.tags("tr")
        ]
        for table in section.tags("table")
    }
    assert shown["mine"][:4] == [
        ["switch", "setting", "mine testB"],
        [AS_CONFIGURED, "as configured", "40.0030.00"],
        ["fill", "fill = mean", "42.00 +2.0031.00 +1.00"],
        ["antialias", "antialias = never release", "–30.50 +0.50"],
    ]
    assert shown["cut"][:3] == [
        ["switch", "setting", "cut test"],
        [AS_CONFIGURED, "as configured", "30.0050.00"],
        ["fill", "fill = mean", "25.00 −5.0050.00 +0.00"],
    ]
    assert shown["cut"][3][1] == " ".join(HOSTILE.split())
    assert len(shown["mine"]) == len(shown["cut"]) == 4, (
        "a line without a number of a data set is left out of its table"
    )
    assert [e.text for e in section.tags("dt")] == ["fill", "antialias"]
    assert all("scope" in heading.attributes for heading in section.tags("th"))


# Warnings.


def test_warnings_are_shown_by_stage(tmp_path: Path, no_vega: None) -> None:
    paths = build(tmp_path)

    def section() -> Element:
        page, _ = make(paths)
        (found,) = page.tags("section", id="warnings")
        return found

    assert "No records" in section().text
    paths.records.mkdir()
    old = {"stage": "score", "total_seconds": 1.0}
    write_record(paths.records, old)
    write_record(paths.records, old | {"stage": "parse", "warnings": []})
    assert "None was recorded by any stage." in section().text
    for stage, warnings in (
        ("sweep", ["only one split"]),
        ("index", ["refcoco val: 10 refs, 3811 published", HOSTILE]),
    ):
        write_record(paths.records, old | {"stage": stage, "warnings": warnings})
    rows = [(row.attributes["data-warned"], row.tags("td")[0].text) for row in section().tags("tr")[1:]]
    assert rows == [("index", "refcoco val: 10 refs, 3811 published"), ("index", HOSTILE), ("sweep", "only one split")]
    assert [(th.text, th.attributes["rowspan"]) for th in section().tags("tbody")[0].tags("th")] == [
        ("index", "2"),
        ("sweep", "1"),
    ]
