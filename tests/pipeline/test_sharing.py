"""Features shared through a DVC remote: a second clone pulls them, computes nothing again, and a new k costs only itself."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.helpers.dvc_project import Project, finished

GIT = ("git", "-c", "user.name=t", "-c", "user.email=t@t")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A finished project whose outputs are pushed, and whose lock and remote are in git."""
    project = finished(tmp_path_factory.mktemp("first"), variants={"switches": [], "templates": []})
    remote = tmp_path_factory.mktemp("remote")
    project.dvc("remote", "add", "-q", "-d", "storage", str(remote))
    assert "pushed" in project.dvc("push")
    for words in (("add", "-A", ".dvc", "demo"), ("commit", "-qm", "results")):
        subprocess.run([*GIT, *words], cwd=project.folder, check=True)
    return project


def clone(shared: Project, folder: Path, data: bool) -> Project:
    """A second clone, with or without the benchmark's annotations and images."""
    subprocess.run(["git", "clone", "-q", str(shared.folder), str(folder)], check=True)
    if data:
        shutil.copytree(shared.folder / "data/refshapes", folder / "data/refshapes")
    project = Project.__new__(Project)
    project.folder = folder
    return project


def digests(project: Project) -> dict[str, bytes]:
    folder = project.folder / "data/demo"
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_clone_pulls_all_and_computes_nothing(shared: Project, tmp_path: Path) -> None:
    second = clone(shared, tmp_path / "second", data=True)
    second.dvc("pull", "demo/dvc.yaml")
    assert digests(second) == digests(shared)
    assert second.repro() == []
    assert json.loads(second.dvc("status", "--json", "demo/dvc.yaml")) == {}
    assert not (second.folder / ".work").exists()
    second.set(embed_masks={"masked_blocks": [2, 3]})
    assert "propose" not in second.repro()
    record = second.record("embed_masks")
    work = second.folder / ".work/demo/embed_masks@vit"
    computed = {
        manifest.parent.parent.name: any('"seconds":0.0,' not in line for line in manifest.read_text().splitlines())
        for manifest in work.rglob("manifest.jsonl")
    }
    assert computed == {"global.k2": True, "global.k3": False, "local": False}
    assert record["computed"]["images"] > 0


def test_a_clone_without_the_data(shared: Project, tmp_path: Path) -> None:
    """Numbers need no images: what is pulled is not removed for want of what it was made from."""
    second = clone(shared, tmp_path / "second", data=False)
    second.dvc("pull", "--allow-missing")
    assert "up to date" in second.dvc("repro", "--allow-missing", "demo/dvc.yaml")
    second.set(score={"alpha": 0.5})
    words = ["repro", "--allow-missing", "demo/dvc.yaml"]
    said = second.dvc(*words)
    assert [name for name in ("index", "propose", "pair") if f"Running stage 'demo/dvc.yaml:{name}" in said] == []
    assert "Running stage 'demo/dvc.yaml:score'" in said
    before = digests(shared)
    assert all(digests(second)[name] == before[name] for name in ("index.h5", "proposals.h5", "pairs/vit.h5"))
    page = (second.folder / "data/demo/report.html").read_text()
    assert "No picture" in page


def test_dvc_shows_a_small_table_and_plots(shared: Project) -> None:
    """`metrics diff` has a row a split; the plots hold the numbers of the metrics file."""
    lines = shared.dvc("metrics", "show", "--md", "demo/summary.json").splitlines()
    shown = json.loads(shared.dvc("metrics", "show", "--json", "demo/summary.json").splitlines()[0])
    values = json.loads((shared.folder / "demo/summary.json").read_text())
    metrics = json.loads((shared.folder / "demo/metrics.json").read_text())
    assert any("refshapes" in line for line in lines)
    assert values in [file["data"] for file in next(iter(shown.values()))["data"].values()]
    for dataset, splits in values.items():
        for split, miou in splits.items():
            assert miou == round(100 * metrics[dataset][split]["global_local"]["miou"], 2)
    text = shared.dvc("plots", "show", "--json")
    for template in ("rules.csv", "iou.csv", "surface.csv"):
        assert template in text
    shared.dvc("plots", "show", "--out", "drawn")
    page = (shared.folder / "drawn/index.html").read_text()
    assert "mIoU (%)" in page, "by the templates in .dvc/plots"
