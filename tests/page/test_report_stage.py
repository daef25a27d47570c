"""The report stage: what its parameters and records change, what it refuses, and the parts of its page by themselves."""

from __future__ import annotations

import base64
import io
import json
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import vl_convert
from PIL import Image

from stages.page import charts, page, tables
from store.document import write_document
from store.errors import StoreError
from store.table import read_table, write_table
from store.usable import pattern
from tests.helpers.documents import changed, write_record
from tests.helpers.report_page import CHOSEN, PAPER_ENCODER, RUN_OF, Element, build, card, iou, make, without_vega

no_vega = pytest.fixture(without_vega)


def test_only_the_extremes_are_shown_when_few_cards_are_asked_for(tmp_path: Path, no_vega: None) -> None:
    page, summary = make(build(tmp_path), cards=1)
    ours = [iou(e, CHOSEN["chosen.global_local"][e]) for e in range(6)]
    gaps = [abs(ours[e] - iou(e, CHOSEN["chosen.cropping"][e])) for e in range(6)]
    expected: dict[int, list[str]] = {}
    for members in ([0, 1, 2], [3, 4, 5]):
        expected.setdefault(max(members, key=lambda e: ours[e]), []).append("best")
        expected.setdefault(min(members, key=lambda e: ours[e]), []).append("worst")
        expected.setdefault(max(members, key=lambda e: gaps[e]), []).append("differ")
    shown = {
        int(c.attributes["data-expression"]) - 100: c.attributes["data-kinds"].split() for c in page.classed("card")
    }
    assert shown == expected
    assert summary.wrote["pictures"] == len(expected)


def test_pictures_are_webp_of_the_asked_width(tmp_path: Path, no_vega: None) -> None:
    page, _ = make(build(tmp_path), image_width=128)
    for image in page.tags("img"):
        kind, _, data = image.attributes["src"].partition(",")
        picture = Image.open(io.BytesIO(base64.b64decode(data)))
        assert kind == "data:image/webp;base64"
        assert (picture.format, picture.size) == ("WEBP", (128, 96))


def test_proposals_that_the_score_stage_filters_are_not_ranked(tmp_path: Path, no_vega: None) -> None:
    page, _ = make(build(tmp_path / "a", config={"min_score": 0.5}))
    assert [line.text.split()[1] for line in card(page, 0).tags("li")] == ["30.50", "20.25"]
    page, _ = make(build(tmp_path / "b", config={"top_n": 1}))
    assert [line.text.split()[1] for line in card(page, 4).tags("li")] == ["2.00"]
    page, _ = make(build(tmp_path / "c", config={"min_area": 400}))
    assert [line.text.split()[1] for line in card(page, 1).tags("li")] == ["7.00", "5.00"]


def test_an_image_that_cannot_be_read_is_reported_and_costs_only_its_picture(tmp_path: Path, no_vega: None) -> None:
    paths = build(tmp_path)
    (paths.images / "1.png").write_bytes(b"")
    page, summary = make(paths)
    assert "is empty (0 bytes)" in card(page, 3).text
    assert not card(page, 3).tags("img")
    assert card(page, 0).tags("img")
    assert [s.split(":")[0] for s in summary.skipped] == ["picture of expression 103", "picture of expression 104"]


def test_records_are_shown_in_the_order_of_the_pipeline(tmp_path: Path, no_vega: None) -> None:
    paths = build(tmp_path)
    page, _ = make(paths)
    assert "No records" in page.tags("section", id="stages")[0].text
    paths.records.mkdir()
    record = {
        "stage": "score",
        "seconds": {"read": 1.25},
        "total_seconds": 1.5,
        "read": {"pairs": 1234},
        "computed": {},
        "reused": {},
        "wrote": {},
        "skipped": [],
        "bytes": {"scores": 1000, "metrics": 500},
    }
    lost = {
        **record,
        "stage": "embed_masks",
        "total_seconds": 3.0,
        "skipped": ["proposal 1: mask empty", "proposal 2: mask empty"],
    }
    for content in (record, lost, {**record, "stage": "report"}):
        write_record(paths.records, content)
    page, summary = make(paths)
    rows = [
        row.attributes["data-stage"]
        for row in page.tags("section", id="stages")[0].tags("tr")
        if "data-stage" in row.attributes
    ]
    assert rows == ["embed_masks", "score"]
    (row,) = page.tags("tr", data_stage="score")
    assert [c.text.strip() for c in row.children if isinstance(c, Element)] == [
        "score",
        "1.5",
        "",
        "1.5 kB",
        "1,234 pairs",
        "",
        "",
        "",
        "none",
    ]
    (degenerate,) = page.tags("tr", data_stage="embed_masks")
    assert degenerate.classed("text")[-1].text.strip() == "2 degenerate"
    text = page.tags("section", id="reasons")[0].text
    assert "reported by embed_masks" in text
    assert "degenerate" in text
    assert "skipped" not in text
    assert summary.read["records"] == 2


def test_equal_runs_give_equal_pages(tmp_path: Path, no_vega: None) -> None:
    paths = build(tmp_path)
    pages = []
    for _ in range(2):
        make(paths)
        pages.append(paths.report.read_bytes())
    assert pages[0] == pages[1]


def test_tables_of_another_run_are_refused(tmp_path: Path, no_vega: None) -> None:
    paths = build(tmp_path / "a")
    shutil.copy(build(tmp_path / "b", config={"alpha": 0.5}).scores, paths.scores)
    make(paths)  # the same columns made from the same pairs: only the parameters differ
    columns = {name: np.zeros(0, np.int64) for name in (*CHOSEN, "chosen.upper_bound")} | {
        "score": np.zeros(0, np.float32)
    }
    write_table(paths.scores, "scores", columns, {}, {"pairs": "another"})
    with pytest.raises(StoreError, match=r"scores\.h5 was made from another pairs .* glimpse repair .*scores\.h5$"):
        make(paths)
    parse = read_table(paths.parse, "parse")
    phrases = [f"{phrase} of another model" for phrase in parse["noun_phrase"]]
    write_table(paths.parse, "parse", {**parse.columns, "noun_phrase": phrases}, {}, parse.attrs["made_from"])
    with pytest.raises(StoreError, match=r"pairs\.h5 was made from another parse .* glimpse repair"):
        make(paths)
    parse = read_table(paths.parse, "parse")
    phrases = [f"{phrase} of another model" for phrase in parse["noun_phrase"]]
    write_table(paths.parse, "parse", {**parse.columns, "noun_phrase": phrases}, {}, parse.attrs["made_from"])
    with pytest.raises(StoreError, match=r"pairs\.h5 was made from another parse .* glimpse repair"):
        make(paths)


@pytest.mark.parametrize("name", ["metrics", "grid"])
def test_a_file_without_a_split_is_refused(tmp_path: Path, no_vega: None, name: str) -> None:
    paths = build(tmp_path)
    file = getattr(paths, name)
    with changed(file) as content:
        del (content["splits"] if name == "grid" else content)["other"]
    with pytest.raises(
        StoreError, match=rf"{name}\.json: expected every split .* other test; .*glimpse repair {file}$"
    ):
        make(paths)


@pytest.mark.parametrize("name", ["metrics", "ablations", "grid"])
def test_a_damaged_file_is_refused(tmp_path: Path, no_vega: None, name: str) -> None:
    paths = build(tmp_path)
    file: Path = getattr(paths, name)
    edited = file.read_text().replace("0.", "0.9", 1)
    assert edited != file.read_text()
    for content, said in {"{": "cannot be read", "{}": "expected a JSON document", edited: "its content has"}.items():
        file.write_text(content)
        with pytest.raises(StoreError, match=rf"{name}\.json: {said}.*glimpse repair {file}$"):
            make(paths)
    assert not paths.report.exists()


def test_chart_data_cannot_end_their_script() -> None:
    hostile = {"x": "</script><!--", "y": [1.5, None]}
    text = str(page._script_json(hostile))
    assert "<" not in text
    assert json.loads(text) == hostile


def test_reasons_that_differ_in_names_and_numbers_are_one_group() -> None:
    same = ["a/b/1.png: image file is empty (0 bytes)", "c/2.png: image file is empty (0 bytes)"]
    assert len({pattern(reason) for reason in same}) == 1
    assert pattern("no category 'x'") == pattern("no category 'y'") != pattern("no category")


@pytest.mark.parametrize("size", [2, 3, 41, 42, 101, 1001])
def test_cells_tile_the_axis_and_stay_few(size: int) -> None:
    values = np.linspace(0, 1, size).tolist()
    cells = charts._cells(values)
    assert len(cells) <= 43
    assert cells[0][:2] == (0, 0.0)
    assert (cells[-1][0], cells[-1][2]) == (size - 1, 1.0)
    assert all(before[2] == after[1] for before, after in pairwise(cells))
    assert all(low < high for _, low, high in cells)
    assert size > 41 or len(cells) == size


def test_histogram_counts_every_expression_once() -> None:
    values = np.array([0.0, 0.049, 0.05, 0.5, 1.0, 0.999, 0.3])
    spec = charts.histogram(
        {"main": values, "rival": np.zeros(7), "upper_bound": np.ones(7)},
        {"main": "Ours", "rival": "Other", "upper_bound": "Upper bound"},
    )
    bins = spec["data"]["values"][:-1]
    for place, row in enumerate(bins):
        count = sum(row["low"] <= v < row["high"] or (v == 1.0 and place == len(bins) - 1) for v in values)
        assert row["main"] == pytest.approx(100 * count / 7, abs=0.001)
    assert [row["rival"] for row in bins] == [100.0] + [0.0] * 19
    assert [row["upper_bound"] for row in bins] == [0.0] * 19 + [100.0]


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (1_234_567, "1.2 MB"), (5e12, "5000.0 GB")]
)
def test_sizes_for_people(count: float, text: str) -> None:
    assert tables.size(count) == text


def test_the_chart_library_is_bundled_once_and_again_when_its_file_is_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    monkeypatch.setattr(
        vl_convert, "javascript_bundle", lambda code: made.append(code) or f"/* </script> {len(made)} */"
    )
    first = page._vega(tmp_path)
    assert page._vega(tmp_path) == first
    assert len(made) == 1
    assert "</script" not in first
    (kept,) = tmp_path.iterdir()
    kept.write_text(kept.read_text().replace("1 */", "2 */"))
    assert page._vega(tmp_path) == first.replace("1 */", "2 */")
    assert len(made) == 2


def test_the_page_says_which_encoder_and_code_made_it(tmp_path: Path, no_vega: None) -> None:
    made, _ = make(build(tmp_path))
    (line,) = made.tags("p", id="encoder")
    text = " ".join(line.text.split())
    assert "Encoder ViT-B/32, weights 40d365715913…, float32" in text
    for name, value in RUN_OF.items():
        assert f"{name} {value}" in text
    (table,) = made.tags("table", id="run")
    assert PAPER_ENCODER["weights"] in table.text


def test_metrics_of_other_scores_are_refused(tmp_path: Path, no_vega: None) -> None:
    """A well-formed file of another run, under the same name."""
    paths = build(tmp_path)
    with changed(paths.metrics) as content:
        content["refshapes"]["val"]["global_local"]["miou"] += 0.01
    with pytest.raises(
        StoreError, match=r"metrics\.json: expected the numbers that .*scores\.h5 records.*glimpse repair"
    ):
        make(paths)


@pytest.mark.parametrize("name", ["grid", "ablations"])
def test_documents_of_another_pair_table_are_refused(tmp_path: Path, no_vega: None, name: str) -> None:
    paths = build(tmp_path)
    file = getattr(paths, name)
    document = json.loads(file.read_text())
    run = document.pop("run")
    write_document(file, document, run["producer"], {"pairs": "0" * 64})
    with pytest.raises(
        StoreError, match=rf"{name}\.json: was made from another pair table than the scores; .*glimpse repair"
    ):
        make(paths)
