"""The committed figures: complete, consistent with their targets, and what docs/performance.md speaks of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.harness import Result
from benchmarks.roofline import Work, counted

RESULTS: dict[str, Any] = json.loads((Path(__file__).parents[2] / "benchmarks/results.json").read_text())
ROWS = {row["name"]: row for row in RESULTS["results"]}
TARGETS = {
    "sparse_masking": "ratio >= 3",
    "visual_stream": "ratio >= 4",
    "freesolo": "ratio >= 1.3",
    "text": "ratio >= 5",
    "pair_build": "ratio >= 10",
    "rescore_one": "ours <= 0.01 s",
    "rescore_surface": "ours <= 1 s",
    "rescore_surface_full": "ours <= 6 s",
    "noop_repro": "ours <= 2 s",
    "alpha_repro": "ours <= 10 s",
}


@pytest.mark.parametrize("name", TARGETS)
def test_every_figure_is_there_and_met_is_what_its_numbers_say(name: str) -> None:
    row = ROWS[name]
    assert row["target"] == TARGETS[name]
    what, sign, limit = row["target"].split()[:3]
    value = {"ratio": row["ratio"], "ours": row["ours"]}[what]
    assert row["met"] is ((value >= float(limit)) if sign == ">=" else (value <= float(limit)))
    if row["plain"] is not None:
        assert row["ratio"] == pytest.approx(row["plain"] / row["ours"])
        assert row["error"] is not None
        assert row["error"] <= 1e-5


def test_the_machine_is_described() -> None:
    assert {"cpu", "cores", "memory_gib", "gpu", "python", "torch"} <= RESULTS["machine"].keys()


@pytest.mark.parametrize("stage", ["propose", "embed_masks", "embed_text", "overlap", "pair", "score", "sweep"])
def test_a_roofline_and_the_growth_of_every_stage_that_computes(stage: str) -> None:
    (roof,) = [row["roofline"] for row in ROWS.values() if row["stage"] == stage]
    assert roof["least"] == pytest.approx(max(roof["gflop"] / roof["peak_gflops"], roof["gbyte"] / roof["peak_gbytes"]))
    assert roof["share"] == pytest.approx(roof["least"] / roof["seconds"])
    assert 0 < roof["share"] <= 1.05
    if stage != "overlap":
        grown = [row for row in RESULTS["growth"] if row["stage"] == stage]
        assert grown
        assert all(len(row["sizes"]) == len(row["seconds"]) == 3 for row in grown)


def test_a_result_says_whether_its_target_is_met() -> None:
    assert Result("x", 10.0, 1.0, at_least=10).met
    assert not Result("x", 9.9, 1.0, at_least=10).met
    assert Result("x", None, 2.0, at_most=2).met
    assert not Result("x", None, 2.1, at_most=2).met
    assert Result("x", 10.0, 1.0).met is None
    assert Result("x", None, 2.1, at_most=2).row()["target"] == "ours <= 2 s"


def test_work_is_counted() -> None:
    import torch

    layer = torch.nn.Linear(300, 200)
    work = counted(lambda: layer(torch.ones(50, 300)), layer)
    assert work.gflop == pytest.approx(2 * 50 * 300 * 200 / 1e9)
    assert work.gbyte == pytest.approx(4 * (300 * 200 + 200) / 1e9)
    assert Work(0.0, 1.0).row(1.0)["bound"] == "memory"
