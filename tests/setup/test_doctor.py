"""glimpse doctor and preflight: one list of needs, each with the command that gets it, and what a digest says."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import replace
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.project import LoadedProject, load_project
from pipeline.setup import preflight, sources
from pipeline.setup.doctor import examine, machine
from pipeline.setup.fetch import fetch
from pipeline.setup.preflight import check, needs
from pipeline.setup.sources import Source
from tests.datasets.test_index import Benchmark
from tests.helpers.fetch_sources import full_project, small
from tests.helpers.profile import ROOT, demo_values

NET = b"weights" * 50


def examined(project: LoadedProject) -> tuple[bool, list[str]]:
    """Whether nothing is missing, and the lines without those of the machine."""
    said: list[str] = []
    fine = examine(project, said.append)
    return fine, [line for line in said if not line.startswith("machine")]


@pytest.fixture
def whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[LoadedProject, Source]:
    """A profile with nothing missing, whose CLIP weights are those of the table; and their source."""
    benchmark = Benchmark(tmp_path / "refer")
    for number in range(1, 4):
        benchmark.add(number, file=b"")
    benchmark.write()
    source = small("weights", "clip", {"ViT-B-32.pt": NET})
    monkeypatch.setattr(sources, "SOURCES", (source,))
    monkeypatch.setattr(preflight, "SOURCES", (source,))
    values = demo_values(tmp_path) | {"root": "."}
    values["index"]["datasets"] = {"shapes": {"split_by": "synth", "splits": ["val"]}}
    values["encoders"][values["encoder"]]["weights"] = "weights/ViT-B-32.pt"
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
    (tmp_path / "own.pt").write_bytes(NET)
    project = load_project(tmp_path / "params.yaml")
    fetch(project, source, tmp_path / "own.pt", False, lambda line: None)
    (tmp_path / "own.pt").unlink()  # a second name of the same file
    return project, source


def test_the_full_benchmark_names_a_command_for_everything_that_can_be_fetched(tmp_path: Path) -> None:
    project = full_project(tmp_path)
    fine, lines = examined(project)
    assert not fine
    wanted = {
        "refer/refcoco/refs(unc).p": "data refcoco",
        "refer/refcoco/instances.json": "data refcoco",
        "refer/refcoco+/refs(unc).p": "data refcoco+",
        "refer/refcoco+/instances.json": "data refcoco+",
        "refer/refcocog/refs(umd).p": "data refcocog",
        "refer/refcocog/refs(google).p": "data refcocog",
        "refer/refcocog/instances.json": "data refcocog",
        "refer/phrasecut/refer_test.json": "data phrasecut",
        "refer/phrasecut/image_data_split3000.json": "data phrasecut",
        "images": "data coco-train2014, data phrasecut",
        "weights/FreeSOLO_R101_30k_pl.pth": "weights freesolo",
        "weights/ViT-B-32.pt": "weights clip",
    }
    told = dict(pairwise(lines))
    for place, words in wanted.items():
        line = next(line for line in lines if line.startswith(f"missing  {tmp_path}/data/{place}: "))
        commands = [f"glimpse fetch {what} --params {project.file}" for what in words.split(", ")]
        assert told[line] == f"         get it: {', '.join(commands)}"
    if not any(line.startswith("ok       spaCy") for line in lines):
        assert told["missing  spaCy model en_core_web_lg: is not installed"].endswith(
            f"glimpse fetch weights spacy --params {project.file}"
        )
    assert any(line.startswith("ok       DVC") for line in lines)
    listed = sum(line.startswith(("missing", "ok")) for line in lines)
    missing = sum(line.startswith("missing") for line in lines)
    assert lines[-1] == f"{missing} of {listed} are missing"


def test_preflight_and_doctor_list_the_same(tmp_path: Path) -> None:
    project = full_project(tmp_path)
    _, lines = examined(project)
    missing = [line.removeprefix("missing  ") for line in lines if line.startswith("missing")]
    assert [f"{need}" for need in needs(project) if need.remedy] == missing
    assert [line.rpartition("; ")[0] for line in check(project)] == missing


def test_every_command_that_is_named_exists(tmp_path: Path) -> None:
    commands = re.findall(r"glimpse fetch (weights|data) (\S+)", "\n".join(check(full_project(tmp_path))))
    assert commands
    for kind, name in commands:
        assert sources.find(kind, name).name == name


def test_nothing_missing(whole: tuple[LoadedProject, Source]) -> None:
    project, _ = whole
    fine, lines = examined(project)
    assert fine, lines
    assert check(project) == []
    assert all(line.startswith("ok ") for line in lines[:-1])
    assert lines[-1] == f"nothing is missing of {len(lines) - 1}"
    assert f"ok       {project.path('weights/ViT-B-32.pt')}: weights of encoder vit; sha256 as published" in lines
    assert any("all 3 images that the annotations name" in line for line in lines)
    assert any(re.search(r"about [\d,]+ bytes of disk room for 3 images", line) for line in lines)


def test_a_weights_file_that_is_another_one_is_named(whole: tuple[LoadedProject, Source]) -> None:
    project, _ = whole
    project.path("weights/ViT-B-32.pt").write_bytes(NET[:-1])
    fine, lines = examined(project)
    assert not fine
    at = next(i for i, line in enumerate(lines) if line.startswith("missing"))
    assert f"expected sha256 {small('weights', 'clip', {'ViT-B-32.pt': NET}).items[0].digest}" in lines[at]
    assert "get it: move it away, then: glimpse fetch weights clip" in lines[at + 1]


@pytest.mark.parametrize("recorded", [True, False])
def test_a_digest_that_nobody_published_is_compared_with_the_record(
    whole: tuple[LoadedProject, Source], monkeypatch: pytest.MonkeyPatch, recorded: bool
) -> None:
    project, source = whole
    unknown = replace(source, items=(replace(source.items[0], digest=""),))
    monkeypatch.setattr(sources, "SOURCES", (unknown,))
    if not recorded:
        project.path("weights/ViT-B-32.pt.sha256").unlink()
    fine, lines = examined(project)
    assert fine
    expected = "sha256 as recorded, never verified" if recorded else "sha256 neither published nor recorded"
    assert any(expected in line for line in lines)
    project.path("weights/ViT-B-32.pt").write_bytes(NET[:-1] + b"?")
    assert examined(project)[0] != recorded


def test_images_that_lack_and_room(whole: tuple[LoadedProject, Source], monkeypatch: pytest.MonkeyPatch) -> None:
    project, _ = whole
    (project.path(project.values.images) / "image_2.png").unlink()
    need = sum(stage.disk for stage in preflight.examined(project)[1])
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=need - 1))
    fine, lines = examined(project)
    assert not fine
    missing = [line for line in lines if line.startswith("missing")]
    assert "1 images that the annotations name, the first image_2.png" in missing[0]
    assert f"{need:,} bytes of disk room for 3 images (most for report), {need - 1:,} are free" in missing[1]
    assert lines[lines.index(missing[1]) + 1].startswith("         get it: make room")


def test_the_machine() -> None:
    cores, memory, packages, device, precision = machine()
    assert cores == f"{len(os.sched_getaffinity(0))} cores"
    total = int(re.search(r"MemTotal:\s+(\d+) kB", Path("/proc/meminfo").read_text())[1]) * 1024 / 1e9  # type: ignore[index]
    assert memory.startswith(f"{total:.1f} GB of memory")
    assert packages == f"Python packages: torch {version('torch')}, spacy {version('spacy')}, dvc {version('dvc')}"
    assert "CUDA" in device
    gain = re.fullmatch(r"bf16 is (\d+\.\d) times as fast as float32 on cpu; .*only float32 is exact", precision)
    assert gain is not None
    assert float(gain[1]) > 0


def test_exit_status(tmp_path: Path, whole: tuple[LoadedProject, Source]) -> None:
    params = str(whole[0].file)
    assert CliRunner().invoke(app, ["doctor", "--params", params]).exit_code == 0
    whole[0].path("weights/ViT-B-32.pt").unlink()
    done = CliRunner().invoke(app, ["doctor", "--params", params])
    assert done.exit_code == 1
    assert "missing  " in done.output
    assert CliRunner().invoke(app, ["preflight", "--params", params]).exit_code == 1


def test_the_demo_needs_no_network(tmp_path: Path) -> None:
    project = load_project(ROOT / "demo/params.yaml")
    assert not any("glimpse fetch" in need.remedy for need in needs(project))


def test_masks_may_be_a_folder_and_weights_may_not(tmp_path: Path) -> None:
    project = full_project(tmp_path)
    folder = tmp_path / "masks"
    folder.mkdir()
    for source, there in (("masks", True), ("coco", True), ("freesolo", False)):
        propose = project.values.propose.model_copy(update={"source": source, "input": "masks"})
        changed = project.model_copy(update={"values": project.values.model_copy(update={"propose": propose})})
        (need,) = [need for need in needs(changed) if need.where == str(folder)]
        assert bool(need.remedy) != there
