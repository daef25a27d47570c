"""What is committed of the embedded benchmark: its metrics hold the bars it was made for, its lock fits code and params."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from demo.refshapes import write_benchmark
from tests.helpers.documents import data_sets
from tests.helpers.profile import ROOT

METRICS = data_sets(ROOT / "demo/metrics.json")


@pytest.mark.parametrize("split", ["testA", "testB"])
def test_appearance_expressions_find_their_objects(split: str) -> None:
    rules = METRICS["refshapes+"][split]
    bound, ours, random = (rules[rule]["miou"] for rule in ("upper_bound", "global_local", "random"))
    assert bound >= 0.75
    assert ours >= 3 * random
    assert ours >= 0.75 * bound


def test_every_family_and_rule_is_there() -> None:
    assert {dataset: set(splits) for dataset, splits in METRICS.items()} == {
        "refshapes": {"val", "testA", "testB"},
        "refshapes+": {"val", "testA", "testB"},
        "refshapesg": {"val", "test"},
    }
    for splits in METRICS.values():
        for rules in splits.values():
            assert {"global_local", "global", "cropping", "random", "upper_bound", "counts"} == set(rules)


def test_the_committed_lock_fits_code_and_parameters(tmp_path: Path) -> None:
    """DVC itself compares parameters, code, models and the benchmark's files with the lock; no output is needed."""
    project = tmp_path / "project"
    for name in ("pipeline", "stages", "store", "extensions", "demo", "models", ".dvc"):
        shutil.copytree(ROOT / name, project / name, ignore=shutil.ignore_patterns("__pycache__", "cache", "tmp"))
    for name in ("dvc.yaml", "params.yaml", ".gitignore", ".dvcignore"):
        shutil.copy(ROOT / name, project / name)
    write_benchmark(project / "data/refshapes")
    subprocess.run(["git", "init", "-q"], cwd=project, check=True)
    done = subprocess.run(
        [sys.executable, "-m", "dvc", "repro", "--dry", "--allow-missing", "demo/dvc.yaml"],
        cwd=project,
        env={**os.environ, "PYTHONPATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Running stage" not in done.stdout, done.stdout
