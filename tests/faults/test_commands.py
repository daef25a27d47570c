"""The short form of faults of `dvc repro`, and that what is wrong after it is seen."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.faults import commands
from tests.helpers.dvc_project import finished
from tests.helpers.profile import ROOT


def test_dvc_repro_killed_and_two_at_once(tmp_path: Path) -> None:
    tallies = commands.repro_faults(tmp_path, 1, 1, random.Random(0), ("as it was", "another grid"))
    assert [(tally.tried, tally.notes) for tally in tallies] == [(1, []), (1, [])]


def test_the_lock_file_that_a_kill_cut_short(tmp_path: Path) -> None:
    """DVC writes dvc.lock in place: killed meanwhile, it refuses every command; what docs/reliability.md says mends it."""
    project, repro = finished(tmp_path), "dvc repro demo/dvc.yaml"
    before, lock = commands.outputs_of(project), tmp_path / "demo/dvc.lock"
    text = lock.read_text()
    lock.write_text(text[: text.rindex("size:") + len("size:")])
    (remedy,) = [typed for said, typed in commands.HALF_WRITTEN.items() if said in project.typed(repro, 255)]
    assert remedy in (ROOT / "docs/reliability.md").read_text()
    assert "glimpse check --repair" in project.typed("glimpse status --params demo/params.yaml")
    project.typed(remedy)
    assert "Running stage 'demo/dvc.yaml:propose'" in project.typed(repro)
    assert commands.outputs_of(project) == before
    assert "up to date" in project.typed(repro)


@pytest.mark.parametrize(
    ("status", "said", "fine"),
    [
        (0, "up to date", True),
        (255, "error: .work/demo/sweep: another process writes here", True),
        (255, "ERROR: failed to reproduce", True),
        (255, "'./demo/dvc.lock' validation failed.", True),
        (1, "", False),
        (255, "ERROR: failed\nTraceback (most recent call last):", False),
        (0, "Traceback (most recent call last):", False),
    ],
)
def test_a_command_ends_well_or_says_why(status: int, said: str, fine: bool) -> None:
    assert (commands.ended_badly(status, said) == []) == fine
