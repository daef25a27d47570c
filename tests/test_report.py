"""The report: its numbers, pictures and charts against what the stages wrote, escaping, and that it needs no network."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from stages.base import Context, Summary
from stages.report import charts, report, tables
from store.errors import StoreError
from store.masks import encode
from store.table import write_table

HEIGHT, WIDTH = 48, 64
HOSTILE = """</script><script>alert("x")</script><img src=http://evil.example/x onerror='alert(1)'> {{ 7*7 }} "quoted" & 'so'"""
TEXTS = ["red disc", HOSTILE, "ročí 中文 disc", "blue box", "the box on the left", "green disc"]
BOXES = [[(4, 4, 28, 28), (34, 8, 60, 40), (6, 30, 26, 46)], [(10, 10, 50, 40), (0, 0, 20, 20)], []]
"""Proposals of the three images, XYXY. The last has none."""
TRUTHS = [(0, (5, 5, 29, 29)), (0, (34, 10, 60, 40)), (1, (8, 8, 50, 40)), (2, (4, 4, 40, 40))]
"""Image and box of the four refs."""
REF_OF = [0, 0, 1, 2, 2, 3]
GROUPS = [("refshapes", "val"), ("other", "test")]
GROUP_OF_REF = [0, 0, 1, 1]
CHOSEN = {"chosen": [0, 2, 1, 0, 1, -1], "chosen_global": [1, 1, 1, 0, 0, -1], "chosen_cropping": [0, 0, 1, 1, 1, -1]}
SCORES = [[30.5, 20.25, 10.0], [5.0, 7.0, 9.0], [1.0, 3.0, 2.0], [4.0, 2.0], [2.0, 6.0], []]
RULES = ("global_local", "global", "cropping", "upper_bound", "random")


def rectangle(box: tuple[int, int, int, int]) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), np.bool_)
    mask[box[1] : box[3], box[0] : box[2]] = True
    return mask


def iou(expression: int, position: int) -> float:
    """By the masks themselves; 0 without a choice."""
    image, truth = TRUTHS[REF_OF[expression]]
    if position < 0:
        return 0.0
    a, b = rectangle(BOXES[image][position]), rectangle(truth)
    return float((a & b).sum() / (a | b).sum())


def build(root: Path, groups: list[tuple[str, str]] = GROUPS, config: dict[str, Any] | None = None) -> report.Paths:
    """A store of 3 images, 4 refs and 6 expressions in ``root``."""
    (root / "images").mkdir(parents=True)
    for number in range(3):
        picture = Image.new("RGB", (WIDTH, HEIGHT), (200, 210, 190))
        for colour, box in zip(("red", "blue", "green"), BOXES[number], strict=False):
            ImageDraw.Draw(picture).rectangle(box, fill=colour)
        picture.save(root / "images" / f"{number}.png")
    digests = [hashlib.sha256((root / "images" / f"{n}.png").read_bytes()).hexdigest() for n in range(3)]
    paths = report.Paths(
        **{name: root / f"{name}.h5" for name in ("index", "proposals", "parse", "pairs", "scores")},
        **{name: root / f"{name}.json" for name in ("metrics", "grid")},
        **{name: root / name for name in ("images", "records")},
        report=root / "report.html",
    )
    refs = {
        "ref_id": np.arange(10, 14),
        "ref_image": np.array([image for image, _ in TRUTHS]),
        "ref_group": np.array(GROUP_OF_REF, np.int32),
        "ref_category": ["thing"] * 4,
        "ref_mask": encode(np.stack([rectangle(box) for _, box in TRUTHS])),
        "ref_status": [""] * 4,
    }
    images = {
        "image_name": [f"{n}.png" for n in range(3)],
        "image_size": np.array([[HEIGHT, WIDTH]] * 3, np.int32),
        "image_digest": digests,
        "image_status": [""] * 3,
    }
    expressions = {"expression_id": np.arange(100, 106), "expression_ref": np.array(REF_OF), "expression_raw": TEXTS}
    index = write_table(
        paths.index, "index", images | refs | expressions, {"splits": ["val", "test"]}, {}, groups=groups
    )
    flat = [box for own in BOXES for box in own]
    columns: dict[str, Any] = {
        "image_offsets": np.array([0, 3, 5, 5]),
        "mask": encode(np.stack([rectangle(box) for box in flat])),
        "box": np.array(flat, np.float32),
        "score": np.array([0.9, 0.8, 0.3, 0.7, 0.6], np.float32),
        "area": np.array([rectangle(box).sum() for box in flat]),
        "status": ["", "", "no proposal above the thresholds"],
    }
    proposals = write_table(
        paths.proposals, "proposals", columns, {"thresholds": {"score": 0.1}}, {"index": index.digest}
    )
    lists = {name: ["[]"] * 6 for name in ("other_phrases", "position_words", "relation_words")}
    phrases = {"sentence": TEXTS, "noun_phrase": [*TEXTS[:5], ""], "status": [""] * 5 + ["empty sentence"]}
    write_table(
        paths.parse,
        "parse",
        phrases | lists,
        {"spacy_model": "sm", "code": "0123456789abcdef" * 4},
        {"index": index.digest},
    )
    pairs = write_table(
        paths.pairs,
        "pairs",
        pair_columns(proposals),
        {},
        {"index": index.digest, "proposals": proposals.digest},
        groups=groups,
    )
    best = [max(range(len(s)), key=lambda p, e=e: iou(e, p), default=-1) for e, s in enumerate(SCORES)]
    chosen = {name: np.array(values) for name, values in (CHOSEN | {"chosen_upper_bound": best}).items()}
    scores = {"score": np.array([score for own in SCORES for score in own], np.float32)}
    settings = {"alpha": 0.85, "k": 3, "empty": "count", "min_score": 0.0} | (config or {})
    write_table(paths.scores, "scores", chosen | scores, settings, {"pairs": pairs.digest})
    paths.metrics.write_text(json.dumps(invented_metrics(groups)))
    paths.grid.write_text(json.dumps(invented_grid(groups)))
    return paths


def pair_columns(proposals: Any) -> dict[str, Any]:
    image_of = [TRUTHS[ref][0] for ref in REF_OF]
    rows = [proposals["image_offsets"][image] + p for image in image_of for p in range(len(BOXES[image]))]
    overlaps = []
    for image, ref in zip(image_of, REF_OF, strict=True):
        truth = rectangle(TRUTHS[ref][1])
        overlaps += [((rectangle(b) & truth).sum(), (rectangle(b) | truth).sum()) for b in BOXES[image]]
    dots = ("c", "d", "local_norm", "a.k3", "b.k3", "global_norm.k3", "cross_norm.k3")
    return {
        "expression_offsets": np.cumsum([0, *(len(BOXES[image]) for image in image_of)]),
        "expression_image": np.array(image_of),
        "expression_ref": np.array(REF_OF),
        "expression_group": np.array([GROUP_OF_REF[ref] for ref in REF_OF], np.int32),
        "expression_area": np.array([rectangle(TRUTHS[ref][1]).sum() for ref in REF_OF]),
        "expression_status": [""] * 6,
        "expression_truncated": np.zeros(6, np.bool_),
        "text_norms": np.ones((6, 3), np.float32),
        "proposal": np.array(rows),
        "intersection": np.array([i for i, _ in overlaps]),
        "union": np.array([u for _, u in overlaps]),
        **{name: np.ones(len(rows), np.float32) for name in dots},
        "proposal_score": proposals["score"][rows],
        "proposal_area": proposals["area"][rows],
        "proposal_box": proposals["box"][rows],
    }


def invented_metrics(groups: list[tuple[str, str]]) -> dict[str, Any]:
    """Numbers that nothing else in the page can produce by chance; one rule without any expression."""
    rng = np.random.default_rng(5)
    names = (
        "expressions",
        "refs",
        "images",
        "images_without_proposals",
        "truncated_texts",
        "not_evaluated",
        "no_choice",
    )
    result: dict[str, Any] = {}
    for dataset, split in groups:
        rules: dict[str, Any] = {}
        for rule in RULES:
            values = {name: float(rng.random()) for name in ("oiou", "miou", "p50", "p70", "p90")}
            intervals = {f"{name}_ci": sorted(rng.random(2).tolist()) for name in ("oiou", "miou")}
            rules[rule] = {
                **values,
                "n": int(rng.integers(1000)),
                **intervals,
                "skip": {"oiou": float(rng.random()), "miou": None, "n": 0},
            }
        counts = {name: int(rng.integers(100, 999)) for name in names}
        result.setdefault(dataset, {})[split] = {**rules, "counts": counts}
    return result


def invented_grid(groups: list[tuple[str, str]], size: int = 5) -> dict[str, Any]:
    rng = np.random.default_rng(6)
    splits: dict[str, Any] = {}
    for dataset, split in groups:
        best = {name: {"alpha": 0.25, "beta": 0.75, "value": 0.9} for name in ("oiou", "miou")}
        chosen = {"alpha": 0.85, "beta": 0.5, "oiou": 0.321, "miou": 0.432}
        surface = {name: rng.random((size, size)).tolist() for name in ("oiou", "miou")}
        splits.setdefault(dataset, {})[split] = {**surface, "chosen": chosen, "best": best}
    axis = np.linspace(0, 1, size).tolist()
    ablation = {"name": "text", "setting": "<b>phrase</b> only", "dataset": groups[0][0], "split": groups[0][1]}
    return {
        "alphas": axis,
        "betas": axis,
        "splits": splits,
        "ablations": [{**ablation, "oiou": 0.1234, "miou": 0.2345, "n": 3}],
    }


@dataclass
class Element:
    tag: str
    attributes: dict[str, str]
    children: list[Element | str] = field(default_factory=list)

    def find(self, test: Callable[[Element], bool]) -> list[Element]:
        nested = [c.find(test) for c in self.children if isinstance(c, Element)]
        return ([self] if test(self) else []) + [e for found in nested for e in found]

    def tags(self, tag: str, **attributes: str) -> list[Element]:
        wanted = {name.replace("_", "-"): value for name, value in attributes.items()}
        return self.find(lambda e: e.tag == tag and all(e.attributes.get(n) == v for n, v in wanted.items()))

    def classed(self, name: str) -> list[Element]:
        return self.find(lambda e: name in e.attributes.get("class", "").split())

    @property
    def text(self) -> str:
        return "".join(c if isinstance(c, str) else c.text for c in self.children)


VOID = ("meta", "link", "img", "input", "br")
ENDED_BY = {"th": ("th", "td", "tr"), "td": ("th", "td", "tr"), "tr": ("tr",), "li": ("li",), "option": ("option",)}


class Reader(HTMLParser):
    """A tree of the page; elements that HTML lets end by themselves (table parts, li, p) are closed by the next one."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.root = Element("page", {})
        self.open = [self.root]
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ENDED_BY.get(self.open[-1].tag, ()):
            self.open.pop()
        element = Element(tag, {name: value or "" for name, value in attrs})
        self.open[-1].children.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_endtag(self, tag: str) -> None:
        while self.open[-1].tag != tag:
            assert self.open[-1].tag in ENDED_BY, f"</{tag}> closes {self.open[-1].tag}"
            self.open.pop()
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)


def make(paths: report.Paths, **params: Any) -> tuple[Element, Summary]:
    summary = report.run(report.Params(**params), paths, Context(work=paths.report.parent / "work"))
    return Reader(paths.report.read_text(encoding="utf-8")).root, summary


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> report.Paths:
    """A report with the real chart library, which takes seconds to bundle; without records."""
    paths = build(tmp_path_factory.mktemp("real"))
    make(paths)
    return paths


@pytest.fixture(scope="module")
def page(real: report.Paths) -> Element:
    return Reader(real.report.read_text(encoding="utf-8")).root


@pytest.fixture
def no_vega(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "_vega", lambda: "")


def card(page: Element, expression: int) -> Element:
    (found,) = page.tags("figure", data_expression=str(100 + expression))
    return found


def test_the_table_holds_the_numbers_of_metrics_json(real: report.Paths, page: Element) -> None:
    metrics = json.loads(real.metrics.read_text())
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


def test_chart_data_cannot_end_their_script() -> None:
    hostile = {"x": "</script><!--", "y": [1.5, None]}
    text = str(report._script_json(hostile))
    assert "<" not in text
    assert json.loads(text) == hostile


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
    ours = [iou(e, CHOSEN["chosen"][e]) for e in range(6)]
    cropping = [iou(e, CHOSEN["chosen_cropping"][e]) for e in range(6)]
    for members in ([0, 1, 2], [3, 4, 5]):
        kinds = {e: card(page, e).attributes["data-kinds"].split() for e in members}
        assert [e for e in members if "differ" in kinds[e]] == [
            e for e in members if CHOSEN["chosen"][e] != CHOSEN["chosen_cropping"][e]
        ]
        assert [e for e in members if "best" in kinds[e]] == [e for e in members if CHOSEN["chosen"][e] >= 0]
        assert all("worst" in kinds[e] for e in members)
    for expression in range(5):
        shown = [float(v.tags("b")[0].text) for v in card(page, expression).classed("verdict")]
        bound = max(iou(expression, p) for p in range(len(SCORES[expression])))
        assert shown == pytest.approx([100 * v for v in (ours[expression], cropping[expression], bound)], abs=0.00501)


def test_only_the_extremes_are_shown_when_few_cards_are_asked_for(tmp_path: Path, no_vega: None) -> None:
    page, summary = make(build(tmp_path), cards=1)
    ours = [iou(e, CHOSEN["chosen"][e]) for e in range(6)]
    gaps = [abs(ours[e] - iou(e, CHOSEN["chosen_cropping"][e])) for e in range(6)]
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


def test_the_best_proposals_come_with_scores_and_iou(page: Element) -> None:
    for expression, scores in enumerate(SCORES[:5]):
        order = sorted(range(len(scores)), key=lambda p, s=scores: -s[p])
        for line, position in zip(card(page, expression).tags("li"), order, strict=True):
            assert f"score {scores[position]:.2f}" in line.text
            assert f"IoU {100 * iou(expression, position):.2f}" in line.text
            marks = [mark.text for mark in line.classed("mark")]
            ours, cropping = (CHOSEN[name][expression] == position for name in ("chosen", "chosen_cropping"))
            assert marks == (
                ["both"] if ours and cropping else ["chosen"] if ours else ["cropping"] if cropping else []
            )


def test_proposals_that_the_score_stage_filters_are_not_ranked(tmp_path: Path, no_vega: None) -> None:
    page, _ = make(build(tmp_path / "a", config={"min_score": 0.5}))
    assert [line.text.split()[1] for line in card(page, 0).tags("li")] == ["30.50", "20.25"]
    page, _ = make(build(tmp_path / "b", config={"top_n": 1}))
    assert [line.text.split()[1] for line in card(page, 4).tags("li")] == ["2.00"]
    page, _ = make(build(tmp_path / "c", config={"min_area": 400}))
    assert [line.text.split()[1] for line in card(page, 1).tags("li")] == ["7.00", "5.00"]


def test_an_expression_without_a_choice_is_shown(page: Element) -> None:
    lost = card(page, 5)
    assert "No proposal to choose from." in lost.text
    assert [v.tags("b")[0].text for v in lost.classed("verdict")] == ["–"] * 3
    assert lost.classed("phrase")[0].text == "noun phrase: none"
    assert lost.tags("img")


def test_an_image_that_cannot_be_read_is_reported_and_costs_only_its_picture(tmp_path: Path, no_vega: None) -> None:
    paths = build(tmp_path)
    (paths.images / "1.png").write_bytes(b"")
    page, summary = make(paths)
    assert "is empty (0 bytes)" in card(page, 3).text
    assert not card(page, 3).tags("img")
    assert card(page, 0).tags("img")
    assert [s.split(":")[0] for s in summary.skipped] == ["picture of expression 103", "picture of expression 104"]


def test_skipped_rows_are_grouped_by_reason(page: Element) -> None:
    rows = [
        [c.text.strip() for c in row.children if isinstance(c, Element)]
        for row in page.tags("section", id="skipped")[0].tags("tr")[1:]
    ]
    assert ["image without proposals", "1", "no proposal above the thresholds", "2.png"] in rows
    assert ["text", "1", "empty sentence", "expression 105"] in rows
    assert len(rows) == 2


def test_reasons_that_differ_in_names_and_numbers_are_one_group() -> None:
    same = ["a/b/1.png: image file is empty (0 bytes)", "c/2.png: image file is empty (0 bytes)"]
    assert len({tables._pattern(reason) for reason in same}) == 1
    assert tables._pattern("no category 'x'") == tables._pattern("no category 'y'") != tables._pattern("no category")


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
    lost = {**record, "stage": "embed_masks", "total_seconds": 3.0, "skipped": ["mask 1: empty", "mask 2: empty"]}
    for content in (record, lost, {**record, "stage": "report"}):
        (paths.records / f"{content['stage']}.json").write_text(json.dumps(content))
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
        "0",
    ]
    assert "reported by embed_masks" in page.tags("section", id="skipped")[0].text
    assert summary.read["records"] == 2


def test_the_warning_about_synthetic_scenes_is_for_refshapes_only(tmp_path: Path, page: Element, no_vega: None) -> None:
    assert (
        "nothing about the method's quality on photographs"
        in page.find(lambda e: e.attributes.get("id") == "synthetic")[0].text
    )
    other, _ = make(build(tmp_path, [("refcoco", "val"), ("refcocog", "test")]))
    assert not other.find(lambda e: e.attributes.get("id") == "synthetic")


def test_equal_runs_give_equal_pages(tmp_path: Path, no_vega: None) -> None:
    paths = build(tmp_path)
    pages = []
    for _ in range(2):
        make(paths)
        pages.append(paths.report.read_bytes())
    assert pages[0] == pages[1]


def test_parameters_are_shown(page: Element) -> None:
    text = page.tags("section", id="parameters")[0].text
    assert "0123456789ab…" in text
    for part in ("alpha", "0.85", "thresholds.score", "0.1", "spacy_model", "val, test"):
        assert part in text


def test_heat_maps_hold_the_surface_and_both_points(real: report.Paths, page: Element) -> None:
    specs = json.loads(page.tags("script", id="specs")[0].text)
    grid = json.loads(real.grid.read_text())
    assert set(specs) == {"heat-0", "heat-1", "iou-0", "iou-1"} == {e.attributes["id"] for e in page.classed("chart")}
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
        assert values["in use", "miou"] == (0.85, 0.5, 43.2)
        assert values["best", "oiou"] == (0.25, 0.75, 90.0)
        assert "'best'" in best["transform"][0]["filter"]
        assert "'in use'" in used["transform"][0]["filter"]


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
    spec = charts.histogram({"global_local": values, "cropping": np.zeros(7), "upper_bound": np.ones(7)})
    bins = spec["data"]["values"][:-1]
    for place, row in enumerate(bins):
        count = sum(row["low"] <= v < row["high"] or (v == 1.0 and place == len(bins) - 1) for v in values)
        assert row["global_local"] == pytest.approx(100 * count / 7, abs=0.001)
    assert [row["cropping"] for row in bins] == [100.0] + [0.0] * 19
    assert [row["upper_bound"] for row in bins] == [0.0] * 19 + [100.0]


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (1_234_567, "1.2 MB"), (5e12, "5000.0 GB")]
)
def test_sizes_for_people(count: float, text: str) -> None:
    assert tables.size(count) == text


def test_tables_of_another_run_are_refused(tmp_path: Path, no_vega: None) -> None:
    paths = build(tmp_path / "a")
    shutil.copy(build(tmp_path / "b", [("x", "val"), ("y", "test")], {"alpha": 0.5}).scores, paths.scores)
    make(paths)  # the same columns made from the same pairs: only the parameters differ
    columns = {name: np.zeros(0, np.int64) for name in (*CHOSEN, "chosen_upper_bound")} | {
        "score": np.zeros(0, np.float32)
    }
    write_table(paths.scores, "scores", columns, {}, {"pairs": "another"})
    with pytest.raises(StoreError, match=r"scores\.h5 was made from another pairs .* run stage score again"):
        make(paths)


@pytest.mark.parametrize(("name", "stage"), [("metrics", "score"), ("grid", "sweep")])
def test_a_file_without_a_split_or_damaged_is_refused(tmp_path: Path, no_vega: None, name: str, stage: str) -> None:
    paths = build(tmp_path)
    file = getattr(paths, name)
    content = json.loads(file.read_text())
    del (content["splits"] if name == "grid" else content)["other"]
    file.write_text(json.dumps(content))
    with pytest.raises(StoreError, match=rf"{name}\.json: expected every split .* none for other test; .*{stage}"):
        make(paths)
    file.write_text("{")
    with pytest.raises(StoreError, match=rf"{name}\.json: cannot be read"):
        make(paths)
    assert not paths.report.exists()


def opened_in_a_browser(file: Path, profile: Path) -> Element:
    """The document as headless Chromium has it a (virtual) while after it opened ``file``, with nothing on its console."""
    names = ("chromium", "chromium-browser", "google-chrome")
    browser = next(filter(None, map(shutil.which, names)), None)
    if browser is None:
        pytest.fail(f"this test needs a browser: put one of {', '.join(names)} on PATH (apt-get install chromium)")
    options = [
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--virtual-time-budget=8000",
        f"--user-data-dir={profile}",
    ]
    command = [browser, *options, "--enable-logging=stderr", "--dump-dom", file.resolve().as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "CONSOLE" not in done.stderr, done.stderr
    return Reader(done.stdout).root


@pytest.mark.browser
def test_the_page_works_in_a_real_browser(real: report.Paths, tmp_path: Path) -> None:
    page = opened_in_a_browser(real.report, tmp_path)
    (body,) = page.tags("body")
    assert body.attributes.get("data-ready") == "4", body.attributes
    assert len(page.classed("card")) == 6
    assert [len(chart.find(lambda e: e.tag in ("canvas", "svg"))) for chart in page.classed("chart")] == [1] * 4
    assert page.tags("output")[0].text == "6 pictures"
    assert card(page, 1).classed("expression")[0].text == f"“{HOSTILE}”"


@pytest.mark.browser
def test_pictures_are_filtered_in_a_real_browser(real: report.Paths, tmp_path: Path) -> None:
    act = """const form = document.getElementById("filters");
    form.elements.dataset.value = "refshapes"; form.elements.kind.value = "differ";
    form.elements.text.value = "10 SCRIPT"; form.dispatchEvent(new Event("input"));
    document.querySelector("button[data-metric=oiou]").click();"""
    file = tmp_path / "acted.html"
    content, end = real.report.read_text(encoding="utf-8").rsplit("</body>", 1)
    file.write_text(f"{content}<script>{act}</script></body>{end}", encoding="utf-8")
    page = opened_in_a_browser(file, tmp_path / "profile")
    assert [int(c.attributes["data-expression"]) for c in page.classed("card") if "hidden" not in c.attributes] == [101]
    assert page.tags("output")[0].text == "1 picture"
    assert {p.attributes["data-metric"] for p in page.classed("points") if "hidden" not in p.attributes} == {"oiou"}
