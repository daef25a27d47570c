"""``--json`` of status, metrics, score, sweep and doctor: standard output is JSON of the shape that docs/results.md says;
and tables for people fit 80 columns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from pipeline.cli import app
from pipeline.setup import doctor
from pipeline.setup.preflight import Need
from stages.scoring.metrics import metrics_by_encoder
from store.document import read_document
from store.errors import ParameterError
from tests.helpers.results import RULES, folder_of, glimpse, results_run
from tests.helpers.stores import GROUPS, Synthetic


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Synthetic:
    return results_run(tmp_path_factory.mktemp("run"))


def as_json(made: Synthetic, *words: Any) -> Any:
    done = glimpse(made, *words, "--json")
    assert done.stderr.startswith("profile ")
    return json.loads(done.stdout)


def test_metrics(made: Synthetic) -> None:
    found = as_json(made, "metrics")
    document = metrics_by_encoder(read_document(folder_of(made) / "metrics.json", "score"))
    assert set(found) == {"encoder", "metrics", "report"}
    assert (found["encoder"], found["report"]) == ("vit", None)
    assert found["metrics"] == {"vit": document[""], "second": document["second"]}
    (folder_of(made) / "report.html").write_text("x")
    assert as_json(made, "metrics")["report"] == str(folder_of(made) / "report.html")


@pytest.mark.parametrize(("encoder", "key"), [("", "vit"), ("second", "second")])
def test_score(made: Synthetic, encoder: str, key: str) -> None:
    """At the run's own values it finds the run's numbers, for each encoder its own."""
    words = ["--alpha", "0.6", "--beta", "0.3", *(["--encoder", encoder] if encoder else [])]
    found = as_json(made, "score", *words)
    assert set(found) == {"encoder", "given", "metrics", "not_scored"}
    assert found["given"] == {"alpha": 0.6, "beta": 0.3}
    assert (found["encoder"], list(found["metrics"]), found["not_scored"]) == (key, [key], [])
    stored = metrics_by_encoder(read_document(folder_of(made) / "metrics.json", "score"))[encoder]
    for dataset, split in GROUPS:
        for rule in [*RULES, "upper_bound", "random"]:
            own = found["metrics"][key][dataset][split][rule]
            assert {name: own[name] for name in ("oiou", "miou", "p50", "n")} == {
                name: stored[dataset][split][rule][name] for name in ("oiou", "miou", "p50", "n")
            }
    assert list(as_json(made, "score", "--dataset", "other")["metrics"]["vit"]) == ["other"]
    with pytest.raises(ParameterError, match="--dataset: no data set 'others'; did you mean 'other'"):
        glimpse(made, "score", "--dataset", "others", "--json")


def test_sweep(made: Synthetic) -> None:
    found = as_json(made, "sweep", "--points", 3)
    assert found["points"] == 3
    assert [(row["dataset"], row["split"], row["measure"]) for row in found["best"]] == [
        (*group, measure) for group in GROUPS for measure in ("oiou", "miou")
    ]
    for row in found["best"]:
        at = as_json(made, "score", "--alpha", row["alpha"], "--beta", row["beta"])
        value = at["metrics"]["vit"][row["dataset"]][row["split"]]["global_local"][row["measure"]]
        assert row["value"] == pytest.approx(value or 0, abs=1e-9)
        assert row["alpha"] in (0, 0.5, 1)
    assert {row["dataset"] for row in as_json(made, "sweep", "--points", 2, "--dataset", "toy")["best"]} == {"toy"}


def test_status(made: Synthetic) -> None:
    found = as_json(made, "status")
    assert set(found) == {"stages", "note"}
    assert "whether code changed is not known" in found["note"]
    names = [stage["stage"] for stage in found["stages"]]
    assert {"index", "embed_masks@vit", "pair@second", "score"} <= set(names)
    for stage in found["stages"]:
        assert set(stage) == {
            *("stage", "state", "current", "seconds", "output_bytes", "parts_bytes", "rows_with_a_reason"),
        }
        assert stage["current"] == (stage["state"] == "up to date")
        assert stage["seconds"] is None, "no record of a run lies there"
    assert {stage["stage"]: stage["state"] for stage in found["stages"]}["ablations"] == "has not run here"


@pytest.mark.parametrize("remedy", ["", "get it"])
def test_doctor(made: Synthetic, remedy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    needs = [Need("a/file", "what it is"), Need("b/file", "another", remedy)]
    monkeypatch.setattr(doctor, "needs", lambda project: needs)
    monkeypatch.setattr(doctor, "machine", lambda: iter(["2 cores"]))
    words = ["doctor", "--json", "--params", str(folder_of(made) / "params.yaml")]
    done: Result = CliRunner().invoke(app, words)
    assert done.exit_code == bool(remedy)
    assert json.loads(done.stdout) == {
        "machine": ["2 cores"],
        "needs": [
            {"where": "a/file", "what": "what it is", "missing": False, "remedy": ""},
            {"where": "b/file", "what": "another", "missing": bool(remedy), "remedy": remedy},
        ],
        "missing": int(bool(remedy)),
    }


@pytest.mark.parametrize(
    "words", [["status"], ["metrics"], ["sweep", "--points", "3"], ["compare", "global", "second:global"]]
)
def test_tables_fit_80_columns(made: Synthetic, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the terminal says it is narrower; a wider one is used."""
    monkeypatch.setenv("COLUMNS", "60")
    lines = glimpse(made, *words).stdout.splitlines()
    start = next(place for place, line in enumerate(lines) if line.lstrip().startswith("─"))
    rows = lines[start - 1 : max(p for p, line in enumerate(lines) if line.startswith("  ")) + 1]
    assert len(rows) > 4
    assert max(map(len, rows)) <= 80
    assert not any("…" in row for row in rows), "nothing is cut"


def test_a_states_long_reason_is_wrapped_and_whole(made: Synthetic, monkeypatch: pytest.MonkeyPatch) -> None:
    reason = "made from another thing " * 8 + "x" * 90
    monkeypatch.setattr("pipeline.status.reasons", lambda project: {each: [reason] for each in everything(project)})
    said = glimpse(made, "status").stdout
    table = [line for line in said.splitlines() if line.startswith("  ")]
    assert max(map(len, table)) <= 80
    assert "embed_masks@second" in said
    joined = "".join(line[22:50].strip() for line in table)
    assert joined.count("x" * 20) > 3


def everything(project: Any) -> list[Any]:
    from pipeline.registry import instances

    return instances(project.values.encoders)


def test_the_folder_of_a_run_is_not_written_to(made: Synthetic, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder_of(made).rglob("*.h5")}
    for words in (["score"], ["sweep", "--points", "2"], ["export", "--format", "coco", "--out", tmp_path / "x.json"]):
        glimpse(made, *words)
    assert {path: path.stat().st_mtime_ns for path in folder_of(made).rglob("*.h5")} == before
