"""The page's script, run by node on the elements of a real page in a stand-in for a document (no browser is needed)."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from stages.page import page
from tests.helpers.profile import ROOT
from tests.helpers.report_page import CHOSEN, HOSTILE, SCORES, Element, build, iou, make

pytestmark = pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed: apt-get install nodejs")
TEMPLATES = ROOT / "stages/page/templates"
OURS = CHOSEN["chosen.global_local"]
REGRET = [max((iou(e, p) for p in range(len(SCORES[e]))), default=0) - iou(e, OURS[e]) for e in range(6)]


def tree(element: Element) -> dict[str, Any]:
    children = [child if isinstance(child, str) else tree(child) for child in element.children]
    return {"tag": element.tag, "attributes": element.attributes, "children": children}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Element:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page, "_vega", lambda folder: "")
        return make(build(tmp_path_factory.mktemp("script")))[0]


def run(made: Element, acts: str = "", address: str = "") -> Any:
    """What stands on the page after its script and ``acts`` ran, see document.js."""
    start = f"globalThis.tree = {json.dumps(tree(made.tags('html')[0]))}; globalThis.address = {json.dumps(address)};"
    files = [ROOT / "tests/helpers/document.js", TEMPLATES / "lists.js", TEMPLATES / "page.js"]
    script = "\n".join([start, *(file.read_text(encoding="utf-8") for file in files)])
    script += (
        "\nconst settled = () => new Promise((done) => setTimeout(done, 5));"
        f"\n(async () => {{ await settled(); {acts}\nawait settled(); console.log(JSON.stringify(state())); }})();"
    )
    done = subprocess.run(["node", "-"], input=script, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert "error" not in found["body"], found["body"]
    return found


def filled(made: Element, **values: str) -> list[int]:
    """The expressions whose pictures are shown with ``values`` in the form, in order."""
    return [number - 100 for number in run(made, f"act.fill({json.dumps(values)});")["cards"]]


def test_all_is_shown_and_drawn_at_first(made: Element) -> None:
    found = run(made)
    assert sorted(found["cards"]) == list(range(100, 106))
    assert found["count"] == "6 pictures"
    charts = [chart.attributes["id"] for chart in made.classed("chart")]
    assert sorted(call["element"] for call in found["embedded"]) == sorted(charts)
    assert found["body"]["ready"] == "6"


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"dataset": "refshapes"}, [0, 1, 2]),
        ({"split": "test"}, [3, 4, 5]),
        ({"kind": "differ"}, [e for e in range(6) if OURS[e] != CHOSEN["chosen.cropping"][e]]),
        ({"category": "box"}, [2]),
        ({"length": "3-5 words"}, [2, 4]),
        ({"position": "left"}, [4]),
        ({"relation": "big"}, [2]),
        ({"relation": "+"}, [2]),
        ({"position": "-"}, [0, 1, 2, 3, 5]),
        ({"iou": "50"}, [e for e in range(6) if iou(e, OURS[e]) <= 0.5]),
        ({"regret": "10"}, [e for e in range(6) if REGRET[e] >= 0.1]),
        ({"margin": "2"}, [1, 2, 3]),
        ({"text": "DISC 10"}, [0]),
        ({"text": "10 script"}, [1]),
        ({"text": "nothing like it"}, []),
    ],
    ids=str,
)
def test_each_filter_shows_what_it_says(made: Element, values: dict[str, str], expected: list[int]) -> None:
    assert sorted(filled(made, **values)) == expected


def test_filters_hold_together_and_nothing_found_is_said(made: Element) -> None:
    found = run(made, 'act.fill({dataset: "refshapes", position: "left"});')
    assert (found["cards"], found["count"], found["nothing"]) == ([], "0 pictures", True)
    assert found["failures"] == []


def test_sorting_is_by_numbers_and_puts_what_has_none_last(made: Element) -> None:
    by_iou = filled(made, sort="iou")
    assert [iou(e, OURS[e]) for e in by_iou] == sorted(iou(e, OURS[e]) for e in range(6))
    assert [REGRET[e] for e in filled(made, sort="-regret")] == sorted(REGRET, reverse=True)
    margins = [
        scores[ours] - max(s for p, s in enumerate(scores) if p != ours) for scores, ours in zip(SCORES[:5], OURS[:5])
    ]
    narrow, wide = filled(made, sort="margin"), filled(made, sort="-margin")
    assert narrow[-1] == wide[-1] == 5, "it has no choice, so no margin"
    assert [margins[e] for e in narrow[:-1]] == sorted(margins)
    assert [margins[e] for e in wide[:-1]] == sorted(margins, reverse=True)


def test_the_list_of_failures_follows_the_same_form(made: Element) -> None:
    failed = [e for e in range(6) if iou(e, OURS[e]) <= 0.5]
    assert sorted(number - 100 for number in run(made)["failures"]) == failed
    found = run(made, 'act.fill({dataset: "other", sort: "-iou"});')
    own = sorted((e for e in failed if e > 2), key=lambda e: -iou(e, OURS[e]))
    assert [number - 100 for number in found["failures"]] == own


def test_an_address_shows_its_expression_whatever_the_filters(made: Element) -> None:
    assert run(made, address="#e-other-test-104")["scrolled"] == ["e-other-test-104"]
    found = run(made, 'act.fill({dataset: "refshapes"}); act.go("#e-other-test-104");')
    assert 104 in found["cards"]
    assert {100, 101, 102} <= set(found["cards"])
    assert found["scrolled"] == ["e-other-test-104"]
    for nothing in ("#e-other-test-999", "#%", "#results"):
        assert run(made, address=nothing)["scrolled"] == []


def test_every_listed_expression_has_one_address(made: Element) -> None:
    anchors = [e.attributes["id"] for e in made.find(lambda e: e.attributes.get("id", "").startswith("e-"))]
    assert len(anchors) == len(set(anchors)) == 6
    targets = [a.attributes["href"] for a in made.tags("a") if a.attributes["href"].startswith("#e-")]
    assert {target[1:] for target in targets} == set(anchors)


def test_a_picture_is_enlarged_and_closed(made: Element) -> None:
    find = (
        f"act.root.querySelectorAll('button.enlarge').find((b) => b.querySelector('img').alt === {json.dumps(HOSTILE)})"
    )
    found = run(made, f"{find}.click();")
    assert [image["alt"] for image in found["enlarged"]] == [HOSTILE]
    assert found["enlarged"][0]["src"].startswith("data:image/webp;base64,")
    assert found["caption"] == HOSTILE
    assert run(made, f"{find}.click(); act.byId('enlarged').dispatch('click');")["enlarged"] is None


@pytest.mark.parametrize("kind", ["svg", "png"])
def test_charts_are_saved_with_a_title_in_the_metric_shown(made: Element, kind: str) -> None:
    press = "act.root.querySelectorAll('button[data-metric]')[1].click();"
    save = "act.root.querySelectorAll('button[data-save]').find((b) => b.dataset.chart === 'curves-1' && b.dataset.save"
    found = run(made, f"{press} {save} === '{kind}').click();")
    assert found["links"] == [
        {"href": f"data:{kind},{2 if kind == 'png' else 1}", "download": f"other test curves.{kind}"}
    ]
    drawn = found["embedded"][-1]
    assert drawn["element"] == "", "it is drawn apart from the page"
    assert drawn["spec"]["title"]["text"][0] == "other test"
    assert drawn["spec"]["title"]["text"][-1] == "oIoU"
    assert drawn["spec"]["params"] == [{"name": "metric", "value": "oiou"}]


def test_what_a_page_may_lack_is_no_error_of_its_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "_vega", lambda folder: "")
    bare, _ = make(build(tmp_path, without_truth=[0, 1]), cards=1)
    found = run(bare)
    assert found["embedded"] == []
    assert "failures" not in found
    assert len(found["cards"]) > 0
