"""The command line: what it prints, and that an error of ours is one message and exit status 1."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer
import yaml
from typer.testing import CliRunner

from pipeline import cli, status
from pipeline.cli import app
from pipeline.project import load_project
from pipeline.registry import Instance
from pipeline.setup.preflight import check, examined
from stages.contract import Context, Summary, compute_missing
from store.errors import GlimpseError, StoreError
from store.units import Result
from store.work import Parts
from tests.datasets.test_index import Benchmark
from tests.helpers.documents import write_record
from tests.helpers.profile import ROOT, demo_values


def glimpse(*words: str) -> tuple[int, str]:
    """Exit status and output of a command."""
    done = CliRunner().invoke(app, [*words], catch_exceptions=True)
    if isinstance(done.exception, GlimpseError):
        raise done.exception
    return done.exit_code, done.output


def test_preflight_lists_exactly_what_the_full_benchmark_needs(tmp_path: Path) -> None:
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    shutil.copytree(ROOT / "models", tmp_path / "models")
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
    project = load_project(tmp_path / "params.yaml")
    lines = check(project)
    files = [
        *("refer/refcoco/refs(unc).p", "refer/refcoco/instances.json", "refer/refcoco+/refs(unc).p"),
        *("refer/refcocog/refs(umd).p", "refer/refcocog/refs(google).p", "images"),
        *("refer/phrasecut/refer_test.json", "refer/phrasecut/image_data_split3000.json"),
        *("weights/FreeSOLO_R101_30k_pl.pth", "weights/ViT-B-32.pt"),
    ]
    for file in files:
        assert any(line.startswith(f"{tmp_path}/data/{file}:") for line in lines), file
    assert any("en_core_web_lg" in line for line in lines)
    assert all("; glimpse fetch " in line for line in lines)
    for file in files:
        path = tmp_path / "data" / file
        if not path.suffix:
            path.mkdir(parents=True)
            path = path / "COCO_train2014_000000000001.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    left = {line.partition(": ")[0] for line in check(project) if "spaCy" not in line}
    lost = {f"{tmp_path}/data/refer/{name}/instances.json" for name in ("refcoco+", "refcocog")}
    broken = {
        f"{tmp_path}/data/refer/{name}" for name in ("refcoco/refs(unc).p", "phrasecut/image_data_split3000.json")
    }
    assert left == lost | broken, "a damaged file is named, and stops nothing"


def test_preflight_names_missing_images_and_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    benchmark = Benchmark(tmp_path / "refer")
    for number in range(1, 7):
        benchmark.add(number, file=None if number > 2 else b"")
    benchmark.write()
    values = demo_values(tmp_path) | {"root": "."}
    values["index"]["datasets"] = {"shapes": {"split_by": "synth", "splits": ["val"]}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
    lines = check(load_project(tmp_path / "params.yaml"))
    assert len(lines) == 1
    assert "4 images that the annotations name, the first image_3.png, image_4.png, image_5.png" in lines[0]
    need = sum(stage.disk for stage in examined(load_project(tmp_path / "params.yaml"))[1])
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=need))
    assert len(check(load_project(tmp_path / "params.yaml"))) == 1
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=need - 1))
    line = check(load_project(tmp_path / "params.yaml"))[1]
    assert f"about {need:,} bytes of disk room for 6 images (most for report), {need - 1:,} are free; make room" in line


def test_preflight_exits_with_1_when_something_is_missing(tmp_path: Path) -> None:
    shutil.copy(ROOT / "params.yaml", tmp_path / "params.yaml")
    code, said = glimpse("preflight", "--params", str(tmp_path / "params.yaml"))
    assert code == 1
    assert "missing: " in said
    assert "bf16" not in said
    values = yaml.safe_load((tmp_path / "params.yaml").read_text())
    values["encoders"][values["encoder"]]["precision"] = "bf16"
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
    assert "times as fast as float32" in glimpse("preflight", "--params", str(tmp_path / "params.yaml"))[1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "scor"], "no stage 'scor'; did you mean 'score'"),
        (["score", "--params", "nowhere.yaml"], "nowhere.yaml: expected a params file"),
        (["run", "overlap", "--index", "i"], "overlap.work: expected a value, got none"),
    ],
)
def test_errors_are_one_message(words: list[str], message: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", *words], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert f"error: {message}" in done.stderr
    assert "Traceback" not in done.stderr


def project_with_parts(tmp_path: Path) -> tuple[Path, Path]:
    """A profile whose last run of propose used one of two configurations; returns params file and the unused folder."""
    values = yaml.safe_load((ROOT / "demo/params.yaml").read_text())
    values |= {"root": ".", "work": "work", "data": "data"}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
    work = tmp_path / "work" / "propose"
    unused = Parts(work, "proposals", {"x": 1}).folder
    used, summary = Parts(work, "proposals", {"x": 2}), Summary()
    compute_missing(
        {"proposals": used},
        {"proposals": []},
        [],
        lambda device: lambda inputs, kinds: [Result({})],
        Context(work),
        summary,
        "images",
    )
    (unused / "some.npz").write_bytes(b"12345")
    for folder in (unused, used.folder):
        os.utime(folder / "config.json", (1e9, 1e9))
    record: dict[str, Any] = {
        "stage": "propose",
        "parts": summary.parts,
        "total_seconds": 1.5,
        "bytes": {"proposals": 2_500_000},
        "skipped": ["a", "b"],
    }
    write_record(tmp_path / "work" / "records", record)
    return tmp_path / "params.yaml", unused


def test_clean_frees_what_the_last_run_did_not_use(tmp_path: Path) -> None:
    params, unused = project_with_parts(tmp_path)
    size = len(b"12345") + (unused / "config.json").stat().st_size
    code, said = glimpse("clean", "--params", str(params), "--dry-run")
    first, rest = said.split("\n", 1)
    assert first.startswith(f"profile {params}; data data; encoder ")
    assert (code, rest) == (0, f"would free {unused}: {size} B\nwould free {size:,} bytes\n")
    assert (unused / "some.npz").exists()
    code, said = glimpse("clean", "--params", str(params))
    assert code == 0
    _, *lines, last = said.splitlines()
    assert lines == [f"freed {unused}: {size} B"]
    assert last == f"freed {size:,} bytes"
    assert not unused.exists()
    assert len(list((tmp_path / "work" / "propose" / "proposals").iterdir())) == 1


def test_clean_keeps_what_an_interrupted_run_opened_since(tmp_path: Path) -> None:
    params, unused = project_with_parts(tmp_path)
    record = tmp_path / "work" / "records" / "propose.json"
    os.utime(unused / "config.json", (record.stat().st_mtime + 1,) * 2)
    code, said = glimpse("clean", "--params", str(params))
    assert code == 0
    assert f"kept {unused}: " in said
    assert "opened since the last run ended" in said
    assert said.endswith("\nfreed 0 bytes\n")
    assert (unused / "some.npz").exists()


def test_status_shows_state_size_and_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params, _ = project_with_parts(tmp_path)
    monkeypatch.setattr(
        status, "dvc_states", lambda project: {Instance("index"): "up to date", Instance("propose"): "changed deps"}
    )
    monkeypatch.setenv("COLUMNS", "160")
    code, said = glimpse("status", "--params", str(params))
    assert code == 0
    row = next(line for line in said.splitlines() if "propose" in line)
    for cell in ("changed deps", "1.5 s", "2.5 MB", "2"):
        assert cell in row


def test_status_outside_a_dvc_project_says_so(tmp_path: Path) -> None:
    params, _ = project_with_parts(tmp_path)
    with pytest.raises(StoreError, match=r"there is no .*dvc\.yaml: DVC has recorded no run"):
        status.dvc_states(load_project(params))
    code, said = glimpse("status", "--params", str(params))
    assert code == 0
    assert re.search("propose .*has not run", said), "outputs are still looked for"
    assert f"whether code changed is not known: there is no {tmp_path}/dvc.yaml" in said


COMMANDS = {
    "preflight": [],
    "doctor": [],
    "status": [],
    "clean": ["--dry-run"],
    "check": [],
    "score": [],
    "metrics": [],
    "sweep": ["--points", "3"],
    "compare": ["global_local", "cropping"],
    "tune": ["--on", "refshapes/val"],
    "methods": [],
    "export": ["--format", "coco", "--out", "x.json"],
    "table": [],
    "show": ["1"],
    "segment": ["no.png", "a ball"],
    "predict": ["no.png", "--phrases", "x.csv", "--out", "x"],
    "fetch weights": ["clip"],
    "fetch data": ["refcoco"],
}


def test_every_command_with_a_profile_has_the_same_default() -> None:
    found: dict[str, Any] = {}
    waiting = [("", typer.main.get_command(app))]
    while waiting:
        name, command = waiting.pop()
        waiting += [(f"{name} {n}".strip(), c) for n, c in getattr(command, "commands", {}).items()]
        found.update((name, option.default) for option in command.params if option.name == "params")
    assert set(found) == set(COMMANDS)
    assert set(found.values()) == {Path("params.yaml")}


@pytest.mark.parametrize("command", COMMANDS)
def test_the_first_line_names_profile_data_and_encoder(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By default, by the environment and by --params; what comes after it may be an error: there are no data."""
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
    values["encoders"][values["encoder"]] |= {"weights": "weights/RN50.pt", "precision": "bf16"}
    (tmp_path / "other.yaml").write_text(yaml.safe_dump({**values, "data": "data/other"}))
    monkeypatch.chdir(tmp_path)
    words = [*command.split(), *COMMANDS[command]]
    full = "profile params.yaml; data data/full; encoder ViT-B-32-quickgelu, ViT-B-32.pt, float32"
    other = "profile other.yaml; data data/other; encoder ViT-B-32-quickgelu, RN50.pt, bf16"
    assert CliRunner().invoke(app, words).output.splitlines()[0] == full
    assert CliRunner().invoke(app, [*words, "--params", "other.yaml"]).output.splitlines()[0] == other
    monkeypatch.setenv("GLIMPSE_PARAMS", "other.yaml")
    assert CliRunner().invoke(app, words).output.splitlines()[0] == other


def test_the_metrics_of_a_profile_that_has_none_name_the_command_and_the_other_profiles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The demo's table is not printed for want of the full benchmark's."""
    shutil.copy(ROOT / "params.yaml", tmp_path / "params.yaml")
    shutil.copytree(ROOT / "demo", tmp_path / "demo", ignore=shutil.ignore_patterns("models", "__pycache__"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        StoreError, match=r"metrics\.json: .*found none; run: dvc repro \(another profile: --params FILE"
    ):
        glimpse("metrics")
    code, said = glimpse("metrics", "--params", "demo/params.yaml")
    assert code == 0
    assert said.startswith("profile demo/params.yaml; data data/demo; ")
    assert "dvc repro demo/dvc.yaml" in said.splitlines()[1], "its numbers are of a run that was not here"


def test_the_demos_table_fits_80_columns() -> None:
    said = CliRunner().invoke(app, ["metrics", "--params", str(ROOT / "demo/params.yaml")]).output
    rows = [line for line in said.splitlines() if "Global-local" in line or "P@0.5" in line]
    assert len(rows) == 18, "eight splits and a head for each of two encoders"
    assert max(map(len, rows)) <= 80


def test_main_is_the_console_script() -> None:
    assert 'glimpse = "pipeline.cli:main"' in (ROOT / "pyproject.toml").read_text()
    assert callable(cli.main)
