"""``glimpse run STAGE --help``, and how much the command line says."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pipeline import progress, runner
from pipeline.cli import app
from pipeline.progress import VERBOSITY
from pipeline.registry import PER_ENCODER, STAGES, stage_module
from pipeline.runner import Execution, Place
from store.errors import ParameterError
from store.units import Unit
from tests.helpers.profile import ROOT


@pytest.mark.parametrize("name", STAGES)
def test_every_value_of_a_stage_is_listed(name: str) -> None:
    found = CliRunner().invoke(app, ["run", name, "--help"])
    assert found.exit_code == 0, found.output
    listed = re.findall(r"^  --(\w+)", found.output, re.MULTILINE)
    stage = stage_module(name)
    expected = {field for model in (stage.Params, stage.Paths, Place, Execution) for field in model.model_fields}
    expected -= set() if name in PER_ENCODER else {"encoder"} - set(stage.Params.model_fields)
    assert set(listed) == expected
    assert len(listed) == len(expected)
    assert max(map(len, found.output.splitlines())) <= 80


def test_ranges_and_defaults_are_the_stages_own() -> None:
    said = CliRunner().invoke(app, ["run", "score", "--help"]).output
    assert "--alpha  number from 0 to 1, default 0.95\n      weight of the global visual feature" in said
    assert "--empty  count, skip, default count" in said
    said = CliRunner().invoke(app, ["run", "propose", "--help"]).output
    assert "--max_proposals  whole number from" in said


def test_the_stages_are_listed() -> None:
    for words in (["run"], ["run", "--help"]):
        found = CliRunner().invoke(app, words)
        assert found.exit_code == 0
        assert re.findall(r"^(\w+) {2,}", found.output, re.MULTILINE) == list(STAGES)


def test_a_stage_that_is_none() -> None:
    with pytest.raises(ParameterError, match="no stage 'scores'; did you mean 'score'"):
        CliRunner().invoke(app, ["run", "scores", "--help"], catch_exceptions=False)


RECORD: dict[str, Any] = {
    **{verb: {} for verb in ("read", "computed", "reused", "wrote")},
    "stage": "propose",
    "total_seconds": 1.0,
    "peak_bytes": 0,
    "device_peak_bytes": 0,
    "warnings": ["much was lost"],
    "transient": [],
    "stopped": False,
    "skipped": [f"row {n}" for n in range(9)],
    "seconds": {"load models": 0.5},
}


def test_quiet_says_warnings_alone_and_verbose_every_row() -> None:
    assert runner._line(RECORD, "quiet") == "propose:\n  warning: much was lost"
    assert runner._line({**RECORD, "warnings": []}, "quiet") == ""
    usual, verbose = runner._line(RECORD, "usual"), runner._line(RECORD, "verbose")
    assert "row 4\n" in usual
    assert "row 5" not in usual
    assert "... and 4 more (-v" in usual
    assert all(row in verbose for row in RECORD["skipped"])
    assert "load models: 0.50 s" in verbose
    assert "load models" not in usual


def test_the_options_reach_the_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VERBOSITY, "usual")
    for option, said in (("-q", "quiet"), ("--verbose", "verbose")):
        CliRunner().invoke(app, [option, "methods", "--params", str(ROOT / "demo/params.yaml")])
        assert progress.verbosity() == said
    assert CliRunner().invoke(app, ["-q", "-v", "methods"]).exit_code == 2
    monkeypatch.setenv(VERBOSITY, "loud")
    with pytest.raises(ParameterError, match="expected quiet, usual or verbose, got 'loud'"):
        progress.verbosity()


def test_progress_counts_images(monkeypatch: pytest.MonkeyPatch) -> None:
    import rich.progress

    moved: list[float] = []
    totals: list[float | None] = []

    class Recorded(rich.progress.Progress):
        def add_task(self, *words: Any, total: float | None = None, **more: Any) -> Any:
            totals.append(total)
            return super().add_task(*words, total=total, **more)

        def advance(self, task_id: Any, advance: float = 1) -> None:
            moved.append(advance)

    monkeypatch.setattr(rich.progress, "Progress", Recorded)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    units = [Unit([1, 2, 3], {}, {}), Unit([4], {}, {})]
    assert list(progress.track(units, "images")) == units
    assert (totals, moved) == ([4], [3, 1])


def test_ctrl_c_says_that_the_same_command_goes_on(tmp_path: Path) -> None:
    """Interrupted while it waits for a lock that this process holds."""
    from store.locks import locked

    with locked(tmp_path / "work/parse"):
        values = ["--profile", "demo/params.yaml", "--work", str(tmp_path / "work"), "--wait", "60"]
        child = subprocess.Popen(
            [sys.executable, "-m", "pipeline", "run", "parse", *values],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        time.sleep(8)
        child.send_signal(signal.SIGINT)
        _, said = child.communicate(timeout=60)
    assert child.returncode == 130, said
    assert "interrupted: what was computed is kept, the same command goes on from there" in said
    assert "Traceback" not in said
