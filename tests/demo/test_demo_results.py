"""What is committed of the embedded benchmark: its metrics hold the bars it was made for, and stay as they are where a run
finds the same."""

from __future__ import annotations

import configparser
import copy
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from demo.results import lines
from stages.scoring.metrics import metrics_by_encoder
from store.agreement import IDENTITY, disagreements
from store.document import content_of, write_document
from store.errors import StoreError
from store.schema import SCORES
from store.table import read_table, write_table
from tests.helpers.documents import data_sets
from tests.helpers.profile import DVC_STAGES, ROOT, demo_values, run_stages
from tests.helpers.stores import synthetic

METRICS = data_sets(ROOT / "demo/metrics.json")
RUN = json.loads((ROOT / "demo/metrics.json").read_text())[IDENTITY]


@pytest.mark.parametrize("split", ["testA", "testB"])
def test_appearance_expressions_find_their_objects(split: str) -> None:
    rules = METRICS["refshapes+"][split]
    bound, ours, random = (rules[rule]["miou"] for rule in ("upper_bound", "global_local", "random"))
    assert bound >= 0.75
    assert ours >= 2.5 * random
    assert ours >= 0.5 * bound


FAMILIES = {
    "refshapes": {"val", "testA", "testB"},
    "refshapes+": {"val", "testA", "testB"},
    "refshapesg": {"val", "test"},
}
OF_ONE_KIND = {"vit": {"region_token", "clear_clip", "text_region"}, "resnet": {"score_map", "grad_cam"}}
"""Rules that read a view which only this encoder of the demo offers."""


def test_every_family_rule_and_encoder_is_there() -> None:
    by_encoder = metrics_by_encoder(METRICS | {IDENTITY: RUN})
    values = yaml.safe_load((ROOT / "demo/params.yaml").read_text())
    assert list(by_encoder) == ["", "resnet"]
    assert list(RUN["encoders"]) == list(values["encoders"]) == ["vit", "resnet"]
    for name, metrics in by_encoder.items():
        assert {dataset: set(splits) for dataset, splits in metrics.items()} == FAMILIES
        missing = OF_ONE_KIND["vit" if name else "resnet"]
        expected = {*values["rules"]["enabled"], "random", "upper_bound", "counts"} - missing
        for splits in metrics.values():
            for rules in splits.values():
                assert set(rules) == expected
                for rule in set(rules) - {"random", "upper_bound", "counts", "global_local"}:
                    assert rules[rule]["versus"]["rule"] == "global_local"


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A git project with committed metrics, and the scores of a run that found the same."""
    (tmp_path / "demo").mkdir()
    shutil.copy(ROOT / "demo/metrics.json", tmp_path / "demo/metrics.json")
    for words in (["init", "-q"], ["add", "-A"], ["-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "x"]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    write_scores(tmp_path, METRICS)
    return tmp_path


def write_scores(folder: Path, metrics: Any) -> None:
    none = np.zeros(0, np.int64)
    columns = {name: none for name in SCORES.columns if name.startswith("chosen")}
    file = folder / "data/demo/scores.h5"
    write_table(file, "scores", {**columns, "score": none.astype(np.float32)}, {}, {}, metrics=metrics)


def test_the_end_of_make_demo_says_that_the_numbers_are_the_committed_ones(clone: Path) -> None:
    said = list(lines(clone))
    assert said[0] == "numbers: as committed in demo/metrics.json, to within 1e-06"
    assert any(line.startswith("git: ") and "demo/dvc.lock" in line for line in said)
    assert any("data/demo/report.html" in line for line in said)
    assert said[-2].startswith("next: ")
    assert "--params demo/params.yaml" in said[-2], "the commands' default is the full benchmark"
    assert max(map(len, said)) <= 80


def test_the_end_of_make_demo_names_numbers_that_differ(clone: Path) -> None:
    other = copy.deepcopy(METRICS)
    other["refshapes+"]["testA"]["global_local"]["oiou"] += 0.001
    other["refshapesg"]["val"]["random"]["miou_ci"][0] -= 0.001
    write_scores(clone, other)
    (clone / "demo/metrics.json").write_text(json.dumps(other))  # as the run leaves it: the commit is what counts
    said = list(lines(clone))
    assert said[0] == "numbers: 2 are not those of the last commit (git diff demo/metrics.json)"
    assert said[1].endswith("refshapes+.testA.global_local.oiou")
    assert max(map(len, said)) <= 80


def test_the_end_of_make_demo_without_git_or_a_run(clone: Path) -> None:
    shutil.rmtree(clone / ".git")
    assert next(lines(clone)) == "numbers: not compared, this folder is no git clone"
    shutil.rmtree(clone / "data")
    with pytest.raises(StoreError, match=r"scores\.h5: expected a file"):
        list(lines(clone))


def test_no_lock_is_committed_and_nothing_is_staged_by_dvc() -> None:
    """A lock holds this machine's digests of the report, which says how long stages took."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    assert "demo/dvc.lock" not in listed
    config = configparser.ConfigParser()
    config.read_string(re.sub("^ +", "", (ROOT / ".dvc/config").read_text(), flags=re.MULTILINE))
    assert not config.getboolean("core", "autostage", fallback=False)


def test_a_run_with_equal_numbers_leaves_the_metrics_file_as_it_is(tmp_path: Path) -> None:
    """To the byte and the time stamp; one with other numbers writes it anew."""
    synthetic(tmp_path / "data")
    values = demo_values(tmp_path)
    run_stages(values, "pair", "score")
    file = Path(values["metrics"])
    written = json.loads(file.read_text())
    scores = read_table(tmp_path / "data/scores.h5", "scores", ()).attrs
    assert disagreements(written, scores["metrics"]) == []
    other = copy.deepcopy(written)
    other["toy"]["val"]["global_local"]["miou"] += 1e-9  # summed in another order
    run = {**written["run"], "date": "long ago", "commit": "another"}
    del run["digest"]
    write_document(file, content_of(other), "score", run)
    before = file.read_bytes()
    os.utime(file, (1e9, 1e9))
    run_stages(values, "score")
    assert file.read_bytes() == before
    assert file.stat().st_mtime == 1e9
    values["score"]["alpha"] = 1.0
    run_stages(values, "score")
    assert disagreements(other, json.loads(file.read_text()))
    kept = {"cache": False, "persist": True}  # or DVC removes the file before the run
    assert {"${metrics}": kept} in DVC_STAGES["score"]["outs"]
    assert DVC_STAGES["score"]["metrics"] == [{"${summary}": kept}]
