"""The page in a real Chromium: that it draws, filters and enlarges, and that nothing is wider than the screen."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from stages import report
from tests.helpers.report_page import HOSTILE, Element, Reader, build, card, make

pytestmark = pytest.mark.browser
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
OPTIONS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=8000")
WIDTHS = (1280, 768, 390)
"""Pixels: a screen, a tablet, a phone."""


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> report.Paths:
    """A report with the real chart library."""
    paths = build(tmp_path_factory.mktemp("real"))
    make(paths)
    return paths


def opened(file: Path, profile: Path) -> Element:
    """The document as headless Chromium has it a (virtual) while after it opened ``file``, with nothing on its console."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.fail(f"this test needs a browser: put one of {', '.join(BROWSERS)} on PATH (apt-get install chromium)")
    options = [*OPTIONS, f"--user-data-dir={profile}", "--enable-logging=stderr", "--dump-dom"]
    command = [browser, *options, file.resolve().as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "CONSOLE" not in done.stderr, done.stderr
    return Reader(done.stdout).root


def with_script(page: Path, script: str, file: Path) -> Path:
    """A copy of the page as ``file``, with one more script at its end."""
    content, end = page.read_text(encoding="utf-8").rsplit("</body>", 1)
    file.write_text(f"{content}<script>{script}</script></body>{end}", encoding="utf-8")
    return file


def test_the_page_works(real: report.Paths, tmp_path: Path) -> None:
    page = opened(real.report, tmp_path)
    (body,) = page.tags("body")
    assert body.attributes.get("data-ready") == "6", body.attributes
    assert len(page.classed("card")) == 6
    assert [len(chart.find(lambda e: e.tag in ("canvas", "svg"))) for chart in page.classed("chart")] == [1] * 6
    labelled = [
        e.attributes["aria-label"] for e in page.find(lambda e: "graphics-document" in e.attributes.get("role", ""))
    ]
    assert len(labelled) == 6
    assert all("refshapes val" in label or "other test" in label for label in labelled)
    assert page.tags("output", id="cards-count")[0].text == "6 pictures"
    assert card(page, 1).classed("expression")[0].text == f"“{HOSTILE}”"


def test_expressions_are_filtered_and_pictures_enlarged(real: report.Paths, tmp_path: Path) -> None:
    act = """const form = document.getElementById("filters");
    form.elements.dataset.value = "refshapes"; form.elements.kind.value = "differ";
    form.elements.text.value = "10 SCRIPT"; form.dispatchEvent(new Event("input"));
    document.querySelector("button[data-metric=oiou]").click();
    document.querySelector(".card:not([hidden]) .enlarge").click();"""
    page = opened(with_script(real.report, act, tmp_path / "acted.html"), tmp_path / "profile")
    assert [int(c.attributes["data-expression"]) for c in page.classed("card") if "hidden" not in c.attributes] == [101]
    assert page.tags("output", id="cards-count")[0].text == "1 picture"
    assert {p.attributes["data-metric"] for p in page.classed("points") if "hidden" not in p.attributes} == {"oiou"}
    (dialog,) = page.tags("dialog")
    assert "open" in dialog.attributes
    assert dialog.tags("img")[0].attributes["alt"] == HOSTILE


@pytest.mark.parametrize("kind", ["svg", "png"])
def test_a_chart_is_saved_under_the_page_s_own_policy(real: report.Paths, tmp_path: Path, kind: str) -> None:
    act = f"""HTMLAnchorElement.prototype.click = function () {{
      document.body.dataset.saved = `${{this.download}} ${{this.href.split(/[:;,]/).slice(0, 2).join(" ")}}`;
    }};
    document.querySelector('button[data-chart="heat-0"][data-save="{kind}"]').click();"""
    page = opened(with_script(real.report, act, tmp_path / "saved.html"), tmp_path / "profile")
    saved = page.tags("body")[0].attributes["data-saved"]
    assert saved.startswith(f"refshapes val alpha and beta.{kind} ")
    assert saved.partition(f".{kind} ")[2].startswith(
        ("data image/png", "blob file", "blob null", "data image/svg+xml")
    )


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_is_wider_than_the_screen(real: report.Paths, tmp_path: Path, width: int) -> None:
    """In a frame of that width, since a browser's own window may have a least width."""
    tell = """const look = () => {
      if (!document.body.dataset.ready) return void setTimeout(look, 100);
      const free = (e) => !e.closest(".wide, .chart, .track, dialog");
      const beyond = [...document.body.querySelectorAll("*")].filter(free)
        .filter((e) => e.getBoundingClientRect().right > innerWidth + 1).map((e) => `${e.tagName} ${e.className}`);
      const seen = (selector) => [...document.body.querySelectorAll(selector)].filter((e) => e.offsetWidth);
      const narrow = seen('.wide th[scope="row"]').filter((e) => e.offsetWidth < 80 && e.textContent.trim().length > 10)
        .map((e) => e.textContent);
      const wide = seen(".track .global, .track .cropping, .track .random").filter((e) => e.offsetWidth !== 3).length;
      parent.postMessage({ width: document.documentElement.scrollWidth, beyond, narrow, wide }, "*");
    };
    look();"""
    inner = with_script(real.report, tell, tmp_path / "inner.html")
    outer = tmp_path / "outer.html"
    outer.write_text(
        "<!doctype html><body><script>addEventListener('message', (event) => {"
        " document.body.dataset.found = JSON.stringify(event.data); });</script>"
        f'<iframe src="{inner.name}" style="width: {width}px; height: 900px; border: 0"></iframe></body>'
    )
    found = json.loads(opened(outer, tmp_path / "profile").tags("body")[0].attributes["data-found"])
    assert found["beyond"] == []
    assert found["narrow"] == [], "names of rows that break after every few letters"
    assert found["wide"] == 0, "a tick of the overview is a line"
    assert found["width"] <= width
