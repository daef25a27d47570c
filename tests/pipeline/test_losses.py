"""What files that are lost do to a run: the numbers are about the rest, every table says so, and the next run tries again."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from demo.refshapes import write_benchmark
from pipeline.commands.tables import print_last_run
from pipeline.project import load_project
from store.errors import DataError
from store.table import read_table
from tests.helpers.profile import ROOT, command_of, demo_values, run_stages

Values = dict[str, Any]


@pytest.fixture
def profile(tmp_path: Path) -> Values:
    """RefShapes with pictures of its own, one data set; the annotated objects are the proposals, so that IoU is 1 or 0."""
    write_benchmark(tmp_path / "refer", images_per_split=3)
    values = demo_values(tmp_path)
    values["index"]["annotations"], values["images"] = str(tmp_path / "refer"), str(tmp_path / "refer/images")
    values["index"]["datasets"] = {"refshapes": {"split_by": "synth", "splits": ["val", "testA"]}}
    values["propose"] |= {"source": "instances"}
    values["sweep"] |= {"alphas": 2, "betas": 2}
    values["report"], values["bootstrap"] = {"cards": 1}, {"resamples": 0, "seed": 0}
    return values


def names(values: Values) -> list[str]:
    return list(read_table(Path(values["data"], "index.h5"), "index", ("image_name",))["image_name"])


def metrics(values: Values) -> dict[str, Any]:
    return dict(json.loads(Path(values["metrics"]).read_text())["refshapes"])


def test_a_third_of_the_files_missing_changes_no_number_of_the_rest(
    profile: Values, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_stages(profile, "index")
    image = names(profile)[0]
    os.rename(Path(profile["images"], image), tmp_path / "kept.png")
    records = run_stages(profile)
    found = metrics(profile)
    lost = sum(split["counts"]["unreadable image"] for split in found.values())
    assert lost > 0
    for split in found.values():
        counts = split["counts"]
        assert split["upper_bound"]["miou"] == split["upper_bound"]["oiou"] == 1.0
        assert split["upper_bound"]["n"] == counts["expressions"] - counts["unreadable image"]
        assert counts["no_choice"] == counts["images_without_proposals"] == counts["no proposals"] == 0
    for stage in ("index", "score"):
        assert any("unreadable image" in warning for warning in records[stage]["warnings"])
    assert records["index"]["stopped"]
    assert any(image in line for line in records["index"]["transient"])
    capsys.readouterr()
    Path(profile["profile"]).write_text(yaml.safe_dump({**profile, "root": "."}))
    print_last_run(load_project(Path(profile["profile"])))
    said = capsys.readouterr().out
    assert f"expressions left out of the metrics: {lost} of " in said
    assert f"(unreadable image {lost})" in said
    page = Path(profile["data"], "report.html").read_text()
    assert "1 x unreadable image, such as" in page.replace("&#x27;", "'")
    losses = read_table(Path(profile["data"], "pairs/vit.h5"), "pairs", ()).attrs["losses"]
    assert {loss["state"] for loss in losses} == {"unreadable image"}
    os.rename(tmp_path / "kept.png", Path(profile["images"], image))
    whole = run_stages(profile)
    assert not any(record["stopped"] or record["losses"] for record in whole.values())
    assert sum(split["counts"]["not_evaluated"] for split in metrics(profile).values()) == 0


def test_files_gone_before_embed_masks_are_lost_features_and_come_back(profile: Values, tmp_path: Path) -> None:
    run_stages(profile)
    expected, scores = metrics(profile), Path(profile["data"], "scores.h5").read_bytes()
    image = Path(profile["images"], names(profile)[0])
    os.rename(image, tmp_path / "kept.png")
    shutil.rmtree(Path(profile["work"], "embed_masks@vit"))
    record = run_stages(profile, "embed_masks")["embed_masks"]
    assert not record["stopped"], "its last output has the features"
    for features in (Path(profile["work"], "embed_masks@vit"), Path(profile["data"], "mask_features")):
        shutil.rmtree(features)
    record = run_stages(profile, "embed_masks", "pair", "score")["embed_masks"]
    assert record["stopped"]
    found = metrics(profile)
    assert sum(split["counts"]["lost feature"] for split in found.values()) > 0
    for split in found.values():
        assert split["upper_bound"]["miou"] == 1.0
        assert split["global_local"]["n"] == split["counts"]["expressions"] - split["counts"]["lost feature"]
        assert split["counts"]["no_choice"] == 0
    os.rename(tmp_path / "kept.png", image)
    again = run_stages(profile, "embed_masks", "pair", "score")["embed_masks"]
    assert again["computed"]["images"] == 1
    assert not again["stopped"]
    assert metrics(profile) == expected
    assert Path(profile["data"], "scores.h5").read_bytes() == scores


def test_a_generator_of_which_nothing_is_usable_stops_the_run(profile: Values, tmp_path: Path) -> None:
    run_stages(profile, "index")
    table = read_table(Path(profile["data"], "index.h5"), "index")
    rows = [{"image_id": int(i), "bbox": [1, 1, 9, 9], "score": 0.9, "category_id": 1} for i in table["image_id"]]
    (tmp_path / "boxes.json").write_text(json.dumps(rows))
    profile["propose"] |= {"source": "coco", "input": str(tmp_path / "boxes.json")}
    with pytest.raises(
        DataError, match=r"none of \d+ rows of .*boxes\.json can be used: \d+ x unusable row, such as .*\[0\]"
    ):
        run_stages(profile)
    assert not Path(profile["metrics"]).exists()


def run(values: Values, stage: str, **environment: str) -> tuple[int, str]:
    """The command of dvc.yaml in a process of its own: exit status, and what it said."""
    Path(values["profile"]).write_text(yaml.safe_dump(values))
    words = [sys.executable, *command_of(stage, values)[1:]]
    done = subprocess.run(
        words, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout + done.stderr


def test_the_command_fails_while_files_are_missing_unless_that_is_allowed(profile: Values, tmp_path: Path) -> None:
    """DVC takes a command that ends with status 0 for done, and would never run it again."""
    run_stages(profile, "index")
    image = Path(profile["images"], names(profile)[0])
    os.rename(image, tmp_path / "kept.png")
    status, said = run(profile, "index")
    assert status == 1
    assert "stopped: 1 file was not there, such as " in said
    assert image.name in said
    assert "GLIMPSE_ALLOW_LOST=1" in said
    assert "Traceback" not in said
    status, said = run(profile, "index", GLIMPSE_ALLOW_LOST="1")
    assert status == 0
    assert "going on without them" in said
    assert "1 x unreadable image" in said
    image.write_bytes(b"these bytes are no image")  # a fault of the file itself: no next run would find another one
    status, said = run(profile, "index")
    assert status == 0
    assert "not an image" in said
    os.rename(tmp_path / "kept.png", image)
    status, said = run(profile, "index")
    assert (status, "warning" in said) == (0, False)
