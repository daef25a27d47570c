"""How the page looks, as far as its text says: contrast, narrow screens, paper, and what a screen reader is told."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import vl_convert

from stages.page import page, tables
from stages.page.data import load_data
from tests.helpers.documents import changed
from tests.helpers.profile import ROOT
from tests.helpers.report_page import GROUPS, Element, build, invented_ablations, make

TEMPLATES = ROOT / "stages/page/templates"
STYLE, MEDIA = ((TEMPLATES / name).read_text() for name in ("style.css", "media.css"))
LIGHT, DARK = STYLE.split("@media (prefers-color-scheme: dark)", 1)
DARK = DARK[: DARK.index("\n}")]
PRINT = MEDIA[MEDIA.index("@media print") :]
NARROW = MEDIA[: MEDIA.index("@media print")]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Element:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page, "_vega", lambda folder: "")
        return make(build(tmp_path_factory.mktemp("layout")))[0]


def colours(css: str) -> dict[str, str]:
    return dict(re.findall(r"--([\w-]+):\s*(#[0-9a-f]{6})", css))


def luminance(colour: str) -> float:
    """Relative luminance of "#rrggbb" as WCAG 2 defines it."""
    parts = (int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(a: str, b: str) -> float:
    """
    >>> contrast("#000000", "#ffffff")
    21.0
    """
    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def declarations(css: str, selector: str) -> str:
    """All that the rules say whose list of selectors holds ``selector``."""
    rules = re.findall(r"([^{}]+)\{([^{}]*)\}", css)
    return " ".join(body for names, body in rules if selector in [name.strip() for name in names.split(",")])


THEMES = {"light": LIGHT, "dark": DARK, "paper": PRINT}


@pytest.mark.parametrize("theme", THEMES)
def test_every_colour_of_text_has_a_contrast_of_4_5(theme: str) -> None:
    named = colours(THEMES[theme])
    used = set(re.findall(r"[^-]color:\s*var\(--([\w-]+)\)", STYLE)) - {"card", "note-ink"}
    assert {"ink", "muted", "accent", "ours", "cropping", "bad"} <= used
    for text, ground in product(sorted(used), ("card", "paper")):
        assert contrast(named[text], named[ground]) >= 4.5, (text, ground)
    for text, ground in (("note-ink", "note"), ("card", "ink")):  # notes; a button that is pressed
        assert contrast(named[text], named[ground]) >= 4.5, (text, ground)


@pytest.mark.parametrize("theme", THEMES)
def test_every_colour_of_a_bar_or_line_has_a_contrast_of_3(theme: str) -> None:
    named = colours(THEMES[theme])
    for mark, ground in product(("ours", "cropping", "global", "random", "edge"), ("card", "paper")):
        assert contrast(named[mark], named[ground]) >= 3, (mark, ground)
    assert "var(--edge)" in declarations(STYLE, ".track .upper_bound"), "the pale bar has an edge that can be seen"


def test_fixed_colours_of_labels_can_be_read() -> None:
    for selector in (".mark.choice", ".mark.rival"):
        (ground,) = re.findall(r"background:\s*(#[0-9a-f]{6})", declarations(STYLE, selector))
        assert contrast("#ffffff", ground) >= 4.5
    assert "color: #fff" in declarations(STYLE, ".mark")


def test_every_chart_has_a_name_that_holds_its_numbers(made: Element) -> None:
    specs: dict[str, dict[str, Any]] = json.loads(made.tags("script", id="specs")[0].text)
    said = [spec["description"] for spec in specs.values()]
    assert len(set(said)) == len(said) == 6
    for name, spec in specs.items():
        group = " ".join(GROUPS[int(name[-1])])
        assert group in spec["description"]
        assert re.search(r"\d\.\d+ %", spec["description"])
        vega = vl_convert.vegalite_to_vega(json.dumps(spec))
        assert vega["description"] == spec["description"], "which Vega gives its element as its label"


@pytest.mark.parametrize("metric", ["miou", "oiou"])
def test_charts_are_drawn_by_the_library(made: Element, metric: str) -> None:
    """Outside a browser, with a title as a saved chart has it; paths and the marked point are there."""
    specs: dict[str, dict[str, Any]] = json.loads(made.tags("script", id="specs")[0].text)
    for name, spec in specs.items():
        for param in spec.get("params", []):
            param["value"] = metric
        drawn = vl_convert.vegalite_to_svg(json.dumps(spec | {"title": {"text": spec["usermeta"]["title"]}}))
        assert " ".join(GROUPS[int(name[-1])]) in drawn
        marks = {"heat": "mark-rect", "curves": "mark-line", "iou": "mark-line"}[name.split("-")[0]]
        assert marks in drawn
        assert "NaN" not in drawn
        assert ("mark-symbol" in drawn) == (not name.startswith("iou"))


def test_curves_are_the_grid_through_the_point_in_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "_vega", lambda folder: "")
    paths = build(tmp_path)
    made, _ = make(paths)
    grid = json.loads(paths.grid.read_text())
    over_alpha, over_beta, used = json.loads(made.tags("script", id="specs")[0].text)["curves-1"]["layer"]
    surface = grid["splits"]["other"]["test"]
    for metric in ("miou", "oiou"):
        along_alpha = [row[2] for row in surface[metric]]  # beta 0.5; alpha of this data set is 0.25
        along_beta = surface[metric][1]
        for layer, expected in ((over_alpha, along_alpha), (over_beta, along_beta)):
            shown = [(row["value"], row[metric]) for row in layer["data"]["values"]]
            assert shown == [(grid["alphas"][i], pytest.approx(100 * v, abs=0.00501)) for i, v in enumerate(expected)]
    assert [row["value"] for row in used["data"]["values"]] == [0.25, 0.5]


def test_charts_have_buttons_that_save_them(made: Element) -> None:
    buttons = made.find(lambda e: "data-save" in e.attributes)
    targets = {(b.attributes["data-chart"], b.attributes["data-save"]) for b in buttons}
    assert targets == set(product((c.attributes["id"] for c in made.classed("chart")), ("svg", "png")))
    assert len({b.attributes["aria-label"] for b in buttons}) == len(buttons) == 12
    (policy,) = made.tags("meta", http_equiv="Content-Security-Policy")
    assert "connect-src" not in policy.attributes["content"]
    assert "fetch(" not in (TEMPLATES / "page.js").read_text()


def controls(made: Element) -> Iterator[Element]:
    for label in made.tags("label"):
        yield from label.find(lambda e: e.tag in ("select", "input"))


def test_what_can_be_used_has_a_name(made: Element) -> None:
    assert len(list(controls(made))) == len(made.find(lambda e: e.tag in ("select", "input")))
    for button in made.tags("button"):
        assert button.text.strip() or button.attributes.get("aria-label")
    for image in made.tags("img"):
        assert image.attributes["alt"]
    for region in made.classed("wide"):
        assert region.attributes["aria-label"]
        assert region.attributes["tabindex"] == "0", "what scrolls can be reached by keys"
    assert all("scope" in heading.attributes for heading in made.tags("th"))
    named = [e.attributes["id"] for e in made.find(lambda e: "id" in e.attributes)]
    assert len(named) == len(set(named))
    linked = {a.attributes["href"][1:] for a in made.tags("a")}
    assert linked <= set(named)


def test_the_run_is_identified_above_all_else(made: Element) -> None:
    (header,) = made.tags("header")
    first = [e.attributes.get("id", e.tag) for e in header.children if isinstance(e, Element)][:3]
    assert first == ["h1", "encoder", "point"]
    text = " ".join(made.tags("p", id="point")[0].text.split())
    assert "Rule global-local · α 0.85 (other 0.25) · β 0.5 · k 3 · expressions 6" in text


def test_at_thirteen_splits_no_table_has_a_column_for_each(tmp_path: Path) -> None:
    names = {"refcoco": ["val", "testA", "testB"], "refcoco+": ["val", "testA", "testB"], "g": ["val", "test", "x"]}
    groups = [(name, split) for name, splits in (names | {"cut": ["a", "b", "c", "d"]}).items() for split in splits]
    paths = build(tmp_path, groups)
    with changed(paths.ablations) as content:
        row = invented_ablations(groups)["ablations"][0]
        content["ablations"] = [row | {"dataset": name, "split": split} for name, split in groups]
    data = load_data(paths)
    rows = tables.ablations(data.ablations, groups)
    lines = tables.by_dataset(rows, groups)
    assert [(line["dataset"], line["splits"]) for line in lines] == list(
        (names | {"cut": ["a", "b", "c", "d"]}).items()
    )
    assert all(len(row["cells"]) == len(line["splits"]) for line in lines for row in line["lines"])
    assert sum(cell is not None for line in lines for row in line["lines"] for cell in row["cells"]) == 13
    first = [
        line | {"cells": [cell if place < 3 else None for place, cell in enumerate(line["cells"])]} for line in rows
    ]
    assert [line["dataset"] for line in tables.by_dataset(first, groups)] == ["refcoco"], "no table without a number"


def test_wide_tables_scroll_beside_a_first_column_that_stays(made: Element) -> None:
    sticky = declarations(STYLE, '.wide th[scope="row"]')
    assert "position: sticky" in sticky
    assert "left: 0" in sticky
    assert "background: var(--card)" in sticky, "what scrolls past is not seen through it"
    assert "overflow-x: auto" in declarations(STYLE, ".wide")
    assert "max-width: 42vw" in declarations(NARROW, '.wide th[scope="row"]')
    for table in made.tags("table"):
        inside = [region for region in made.classed("wide") if table in region.tags("table")]
        assert inside or len(table.tags("tr")[-1].find(lambda e: e.tag in ("th", "td"))) == 2


def test_nothing_is_wider_than_a_screen_of_390_pixels() -> None:
    """Least widths of columns stand in min(), and no rule outside a scrolled box asks for more than fits."""
    room = 390 - 2 * 12 - 2 * 16
    for least in re.findall(r"minmax\((\d+)px, ", STYLE):
        assert int(least) <= room, "a column that cannot shrink"
    for body in re.findall(r"\{([^{}]*)\}", STYLE):
        for width in re.findall(r"[^-]min-width: (\d+)px", body):
            assert int(width) <= room
    assert "@media (max-width: 640px)" in NARROW


def test_paper_has_all_sections_links_underlined_tracks_and_whole_rows() -> None:
    assert "underline" in declarations(PRINT, "a")
    assert "print-color-adjust: exact" in declarations(PRINT, "*"), "tracks are backgrounds, which printers leave out"
    for selector in ("tr", ".card"):
        assert "break-inside: avoid" in declarations(PRINT, selector)
    assert "table-header-group" in declarations(PRINT, "thead")
    assert "position: static" in declarations(PRINT, '.wide th[scope="row"]')
    assert "position: static" in declarations(PRINT, ".stay")
    assert "overflow: visible" in declarations(PRINT, ".wide")
    hidden = [names for names, body in re.findall(r"([^{}]+)\{([^{}]*)\}", PRINT) if "display: none" in body]
    assert not [name for name in hidden if re.search(r"\bsection\b|\bmain\b|\.overview|\btable\b|\.chart\b", name)]
    assert set(colours(PRINT)) == set(colours(LIGHT)), "paper is light whatever the screen's theme"
