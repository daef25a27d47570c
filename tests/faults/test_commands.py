"""The short form of faults of `dvc repro`, and that what is wrong after it is seen."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.faults import commands


def test_dvc_repro_killed_and_two_at_once(tmp_path: Path) -> None:
    tallies = commands.repro_faults(tmp_path, 1, 1, random.Random(0), ("as it was", "another grid"))
    assert [(tally.tried, tally.notes) for tally in tallies] == [(1, []), (1, [])]


@pytest.mark.parametrize(
    ("status", "said", "fine"),
    [
        (0, "up to date", True),
        (255, "error: .work/demo/sweep: another process writes here", True),
        (255, "ERROR: failed to reproduce", True),
        (1, "", False),
        (255, "ERROR: failed\nTraceback (most recent call last):", False),
        (0, "Traceback (most recent call last):", False),
    ],
)
def test_a_command_ends_well_or_says_why(status: int, said: str, fine: bool) -> None:
    assert (commands.ended_badly(status, said) == []) == fine
