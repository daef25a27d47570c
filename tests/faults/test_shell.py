"""No value of a params file is run by a shell: what DVC really executes for values that try, and that such names work."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.project import load_project
from pipeline.registry import PER_ENCODER, STAGES
from pipeline.reruns import stage_values
from store.errors import ParameterError
from store.table import read_table
from tests.helpers.profile import ROOT, demo_values, plain_values, run_stages

ATTACKS = ("x; touch {}", "x$(touch {})", "x`touch {}`", "x'; touch {} '", 'x"; touch {} "', "x\ntouch {}", "x & touch {} #",
           "x | touch {}", "--x {}\ttouch")  # fmt: skip
GROUPS = {
    "values of all sections": ("data set", "images", "work", "profile", "root", "model", "precision", "spacy_model", "template",
                               "source", "view", "rule", "alpha"),
    "keys and texts of a data set": ("key of split", "images", "template"),
    "files that DVC asks for": ("annotations", "weights", "extensions", "models"),
    "outputs": ("data", "metrics"),
    "encoder": ("encoder",),
}  # fmt: skip


def attacked(values: dict[str, Any], place: str, text: str) -> dict[str, Any]:
    """``values`` with ``text`` in one place."""
    main = values["encoders"][values["encoder"]]
    if place == "data set":
        values["index"]["datasets"] = {text: {"split_by": "synth", "splits": ["val"]}}
    elif place == "key of split":
        values["index"]["datasets"] = {"a": {text: "synth", "splits": [text]}}
    elif place == "encoder":
        values |= {"encoder": text, "encoders": {text: main}}
    elif place in main:
        main[place] = text
    elif place in values:
        values[place] = text
    else:
        section, name = {
            "annotations": ("index", "annotations"),
            "spacy_model": ("parse", "spacy_model"),
            "template": ("embed_text", "template"),
            "source": ("propose", "source"),
            "view": ("embed_masks", "views"),
            "rule": ("rules", "enabled"),
            "alpha": ("score", "alpha"),
        }[place]
        values[section][name] = [text] if name in ("views", "enabled") else text
    return values


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project of DVC in which ``python`` writes down its words and does nothing else."""
    folder = tmp_path_factory.mktemp("project")
    for name in ("stages", "store", "pipeline", "demo", ".dvc"):
        shutil.copytree(
            ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "cache", "tmp", "models")
        )
    (folder / "demo/dvc.lock").unlink(missing_ok=True)
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    python = folder / "bin/python"
    python.parent.mkdir()
    python.write_text(f'#!/bin/sh\necho "$*" >> {folder}/words\n')
    python.chmod(0o755)
    return folder


@pytest.mark.parametrize("group", GROUPS)
def test_what_dvc_runs_is_fixed_words(project: Path, group: str) -> None:
    """Each place with a way to leave a command, turn by turn; all stages that DVC can name are forced to run."""
    written, values = project / "words", plain_values()
    written.unlink(missing_ok=True)
    for number, place in enumerate(GROUPS[group]):
        values = attacked(values, place, ATTACKS[number % len(ATTACKS)].format(f"INJECTED{number}"))
    (project / "demo/params.yaml").write_text(yaml.safe_dump(values))
    names = [f"{name}@{values['encoder']}" if name in PER_ENCODER else name for name in STAGES]
    command = ["dvc", "repro", "--force", "--single-item", "--keep-going", *(f"demo/dvc.yaml:{name}" for name in names)]
    environment = {**os.environ, "PATH": f"{project}/bin:{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)
    said = written.read_text().splitlines() if written.exists() else []
    assert said, f"DVC ran nothing: {done.stdout} {done.stderr}"
    assert set(said) <= {f"-m pipeline run {name} --profile demo/params.yaml" for name in STAGES}
    assert not list(project.rglob("*INJECTED*"))


def test_an_old_command_would_have_been_caught(project: Path) -> None:
    """The attack works where a value does stand in a command, so the test above can fail."""
    folder = project / "old"
    folder.mkdir()
    (folder / "params.yaml").write_text(yaml.safe_dump({"images": "x; touch INJECTED"}))
    (folder / "dvc.yaml").write_text("stages: {a: {cmd: 'echo ${images}'}}")
    subprocess.run([Path(sys.executable).parent / "dvc", "repro"], cwd=folder, capture_output=True, check=False)
    assert (folder / "INJECTED").exists()
    shutil.rmtree(folder)


@pytest.mark.parametrize("name", ["refcoco.v2", "my data", "x;touch y", "$(id)", "--work", "Größe", "a\"b'c"])
def test_a_data_set_may_have_any_name(tmp_path: Path, name: str) -> None:
    """What preflight accepts runs: dots, spaces, quotes and dashes reach the stage as they are."""
    from demo.refshapes import write_benchmark

    values = demo_values(tmp_path)
    write_benchmark(tmp_path / "refer", images_per_split=1)
    values["index"]["datasets"] = {name: {"folder": "refshapes", "split_by": "synth", "splits": ["val"]}}
    run_stages(values, "index")
    assert [list(group) for group in read_table(tmp_path / "data/index.h5", "index", ()).attrs["groups"]] == [
        [name, "val"]
    ]


def test_an_encoder_of_a_name_that_no_file_can_bear_is_refused(tmp_path: Path) -> None:
    values = demo_values(tmp_path)
    for name in ("x;touch y", "a/b", "..", "a.b", "a b", "a@b", "a:b", ""):
        values["encoders"] = {name: next(iter(values["encoders"].values()))}
        Path(values["profile"]).write_text(yaml.safe_dump(values | {"encoder": name}))
        with pytest.raises(ParameterError, match=r"expected a name of letters, digits, '_' and '-'"):
            load_project(Path(values["profile"]))


def test_dvc_tells_whose_encoder_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable of DVC counts for its own stage only, and only where the params file's project is DVC's."""
    from pipeline.runner import _encoder_of_dvc

    values = yaml.safe_load((ROOT / "demo/params.yaml").read_text())
    project = load_project(ROOT / "demo/params.yaml")
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("DVC_STAGE", "a:b/demo/dvc.yaml:embed_masks@resnet")
    assert _encoder_of_dvc("embed_masks", project) == "resnet" != values["encoder"]
    assert _encoder_of_dvc("embed_text", project) == values["encoder"]
    assert stage_values(project, "embed_masks", {}, "resnet")[0].model.endswith("resnet.json")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ParameterError, match="root: expected the way to the project's folder"):
        _encoder_of_dvc("embed_masks", project)
