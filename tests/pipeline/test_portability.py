"""A project's folder of another user, with its data on another disk, or renamed: it works, or one line says why not."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from pipeline.project import OTHER_DISK, load_project
from pipeline.setup.preflight import needs
from store.table import read_table
from tests.helpers.dvc_project import Project
from tests.helpers.profile import ROOT


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path / "project")


def test_data_on_another_disk(project: Project, tmp_path: Path) -> None:
    """A link is refused before the work; the remedy, typed, puts the outputs there."""
    other = tmp_path / "other disk"
    data = project.folder / "data/demo"
    other.mkdir()
    data.symlink_to(other)
    said = project.typed("dvc repro demo/dvc.yaml:index", 255)
    assert (
        f"data/demo: expected a folder inside the project, since DVC keeps no outputs elsewhere, got a link to {other}"
        in said
    )
    assert not list(other.iterdir())
    lacking = [str(need) for need in needs(load_project(project.folder / "demo/params.yaml")) if need.remedy]
    assert any("since DVC keeps no outputs elsewhere" in line for line in lacking)

    assert OTHER_DISK in said
    data.unlink()
    project.typed(OTHER_DISK.replace("FOLDER", f"'{other}'"))
    project.typed("dvc repro demo/dvc.yaml:index demo/dvc.yaml:parse")
    table = data / "index.h5"
    assert table.resolve().is_relative_to(other)
    before = read_table(table, "index").digest
    project.set(index={"polygon_overlap": "reference"})
    project.typed("dvc repro demo/dvc.yaml:index")
    assert table.resolve().is_relative_to(other)
    assert read_table(table, "index").attrs["made_from"] is not None
    project.set(index={"polygon_overlap": "union"})
    project.typed("dvc repro demo/dvc.yaml:index")
    assert read_table(table, "index").digest == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a folder away")
def test_a_folder_of_another_user(project: Project) -> None:
    """git refuses such a folder; DVC and Glimpse work, and what they say of the commit is nothing."""
    for path in (project.folder, *project.folder.rglob("*")):
        os.chown(path, 65534, 65534, follow_symlinks=False)
    refused = subprocess.run(["git", "status"], cwd=project.folder, capture_output=True, text=True, check=False)
    assert "dubious ownership" in refused.stderr
    project.typed("dvc repro demo/dvc.yaml:index")
    assert "up to date" in project.typed("python -m pipeline status --params demo/params.yaml")


def test_an_environment_of_another_folder_is_made_again(tmp_path: Path) -> None:
    """What make would do in a project that was made in one folder and renamed; nothing of it is done."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path / name)

    def planned(made_in: str) -> str:
        (tmp_path / ".venv").mkdir(exist_ok=True)
        (tmp_path / ".venv/.installed").write_text(made_in + "\n")
        done = subprocess.run(["make", "-n", "env"], cwd=tmp_path, capture_output=True, text=True, check=True)
        return done.stdout

    renamed = planned("/somewhere else/glimpse")
    assert "-m venv --clear .venv" in renamed
    assert "it is made again here" in renamed
    here = str(tmp_path.resolve())
    assert "venv" not in planned(here)
    os.utime(tmp_path / ".venv/.installed", (0, 0))
    done = subprocess.run(["make", "-n", "env"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "-m venv  .venv" in done.stdout, "other constraints: what is installed is kept"
