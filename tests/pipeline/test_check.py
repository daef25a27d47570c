"""``glimpse check``: every kind of file of a finished run, damaged or replaced, is named; the remedy that it prints, typed as
it stands, makes again just that."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest

from pipeline.commands.check import faults
from pipeline.project import LoadedProject, load_project
from store.table import read_table, write_table
from tests.helpers.busy import holding
from tests.helpers.dvc_project import Project, finished, flip
from tests.helpers.store_files import files_of

DATA = "data/demo"
FILES = {
    "index": f"{DATA}/index.h5",
    "propose": f"{DATA}/proposals.h5",
    "parse": f"{DATA}/parse.h5",
    "overlap": f"{DATA}/overlap.h5",
    "heat@vit": f"{DATA}/heat_maps/vit.h5",
    "pair@vit": f"{DATA}/pairs/vit.h5",
    "score": f"{DATA}/scores.h5",
    "sweep": f"{DATA}/grid.json",
    "ablations": f"{DATA}/ablations.json",
    "report": f"{DATA}/report.html",
}
FOLDERS = {
    "embed_masks@vit": (f"{DATA}/mask_features/vit", "view.local/c/0/0"),
    "embed_text@vit": (f"{DATA}/text_features/vit", "manifest.json"),
    "variants": (f"{DATA}/variants", "fill.h5"),
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return finished(tmp_path_factory.mktemp("finished"))


@pytest.fixture
def loaded(project: Project, monkeypatch: pytest.MonkeyPatch) -> Iterator[LoadedProject]:
    """The finished run, which is as it was after the test."""
    monkeypatch.chdir(project.folder)
    kept = {name: files_of(Path(name)) for name in (DATA, ".work/demo", ".dvc/cache", "demo")}
    yield load_project(Path("demo/params.yaml"))
    for name, before in kept.items():
        for file, now in files_of(Path(name)).items():
            if before.get(file) != now:
                Path(name, file).unlink()
        for file in before.keys() - files_of(Path(name)).keys():
            Path(name, file).parent.mkdir(parents=True, exist_ok=True)
            Path(name, file).write_bytes(before[file])


def named(project: LoadedProject) -> set[tuple[str, str, str]]:
    return {(fault.kind, fault.stage, str(fault.path)) for fault in faults(project) if fault.kind != "cached object"}


@pytest.mark.parametrize("stage", ["index", "pair@vit", "report"])
def test_a_flipped_bit_of_a_file_is_named_and_no_other_file(loaded: LoadedProject, stage: str) -> None:
    """In the cache, too, where the file is a link to it: by what the file itself holds, and by DVC's digest."""
    file = Path(FILES[stage])
    object_ = hashlib.md5(file.read_bytes()).hexdigest()
    flip(file)
    found = faults(loaded)
    assert {(f.stage, str(f.path)) for f in found if f.kind == "output"} == {(stage, FILES[stage])}
    (cached,) = [fault for fault in found if fault.kind != "output"]
    assert str(cached.path) == f".dvc/cache/files/md5/{object_[:2]}/{object_[2:]}"
    assert f"of {FILES[stage]}" in str(cached)


def test_every_file_of_a_finished_run_is_looked_at(loaded: LoadedProject) -> None:
    """But the chart library, which is made again where its digest is another one. A bit flips in each file, once where
    several names are links to one; of parts half is cut off, since an archive has bytes that no reader looks at."""
    roots = [Path(root) for root in (DATA, ".work/demo", ".dvc/cache/files", ".dvc/cache/runs")]
    files = [f for root in roots for f in sorted(root.rglob("*")) if f.is_file() and f.stat().st_size]
    files = [f for f in files if not f.name.startswith("vega-")]
    assert len(files) > 60
    lists = [f for f in files if f.suffix in (".dir", ".jsonl")]  # their damage hides that of what they list
    for damaged in (lists, [f for f in files if f not in lists]):
        kept = {file.stat().st_ino: (file, file.read_bytes()) for file in damaged}
        for file, content in kept.values():
            flip(file, content.index(b"md5: ") + 5 if "runs" in file.parts else None)
            if file.suffix == ".npz":
                file.write_bytes(content[: len(content) // 2])
        names = {str(fault.path) for fault in faults(loaded)}
        assert [f for f in damaged if not names & {str(f), *map(str, f.parents)}] == []
        for file, content in kept.values():
            file.chmod(0o644)
            file.write_bytes(content)
    assert faults(loaded) == []


def test_a_changed_value_with_a_digest_that_fits_is_what_dvc_did_not_record(loaded: LoadedProject) -> None:
    """A table of the right form, with right digests, from the right inputs: zeros for the scores of all pairs."""
    file = Path(FILES["score"])
    table = read_table(file, "scores")
    attrs = {n: v for n, v in table.attrs.items() if n not in ("schema", "version", "columns", "digest")}
    columns = {**table.columns, "score": np.zeros_like(table["score"])}
    write_table(file, "scores", columns, attrs.pop("config"), attrs.pop("made_from"), **attrs)
    (fault,) = faults(loaded)
    assert (fault.kind, str(fault.path)) == ("output", FILES["score"])
    assert "expected what DVC recorded" in fault.what


@pytest.mark.parametrize("with_lock", [True, False])
def test_the_output_of_another_run(loaded: LoadedProject, with_lock: bool) -> None:
    """DVC knows which of two is the other one; without it what was made from the other one does not fit."""
    table = read_table(Path(FILES["parse"]), "parse")
    attrs = {n: v for n, v in table.attrs.items() if n not in ("schema", "version", "columns", "digest")}
    columns = {**table.columns, "status": ["odd"] * len(table["status"])}
    if not with_lock:
        Path("demo/dvc.lock").unlink()
    write_table(Path(FILES["parse"]), "parse", columns, attrs.pop("config"), attrs.pop("made_from"), **attrs)
    if with_lock:
        assert named(loaded) == {("output", "parse", FILES["parse"])}
    else:
        assert named(loaded) == {
            ("reference", "embed_text@vit", f"{DATA}/text_features/vit"),
            ("reference", "heat@vit", FILES["heat@vit"]),
            ("reference", "pair@vit", FILES["pair@vit"]),
        }
        assert "was made from another parse than lies there" in str(faults(loaded)[0])


def test_another_number_of_rows(loaded: LoadedProject) -> None:
    """A table that was made from the same inputs, by its own word, with a row less."""
    Path("demo/dvc.lock").unlink()
    table = read_table(Path(FILES["overlap"]), "overlap")
    columns = {**table.columns, "ref_offsets": table["ref_offsets"][:-1], "ref_area": table["ref_area"][:-1]}
    columns |= {n: table[n][: columns["ref_offsets"][-1]] for n in ("intersection", "union")}
    refs = len(columns["ref_area"])
    write_table(Path(FILES["overlap"]), "overlap", columns, {}, table.attrs["made_from"])
    assert f"expected {refs + 1} rows (R) as {FILES['index']} has, found {refs}" in [f.what for f in faults(loaded)]


def test_parts_manifests_configurations_and_records(loaded: LoadedProject) -> None:
    part, other = (
        sorted(Path(".work/demo/parse").rglob("*.npz"))[0],
        sorted(Path(".work/demo/propose").rglob("*.npz"))[0],
    )
    manifest = next(Path(".work/demo/embed_text@vit").rglob("manifest.jsonl"))
    config = next(Path(".work/demo/embed_masks@vit/local").rglob("config.json"))
    record = Path(".work/demo/records/index.json")
    shutil.copyfile(other, part)
    flip(config)
    flip(record)
    flip(manifest)
    assert {(fault.kind, fault.stage, str(fault.path), fault.line) for fault in faults(loaded)} == {
        ("part", "parse", str(part), 0),
        ("configuration", "embed_masks@vit", str(config), 0),
        ("record", "index", str(record), 0),
        ("manifest line", "embed_text@vit", str(manifest), 1),
    }


def test_what_a_kill_leaves_is_no_fault(loaded: LoadedProject) -> None:
    manifest = next(Path(".work/demo/embed_text@vit").rglob("manifest.jsonl"))
    with manifest.open("a") as file:
        file.write('{"part": "half a li')
    (manifest.parent / ("f" * 20 + ".npz")).write_bytes(b"without a line")
    Path(FILES["overlap"]).unlink()  # not there: `dvc repro` makes it
    assert faults(loaded) == []


def test_a_lock_file_that_dvc_cannot_read(loaded: LoadedProject) -> None:
    Path("demo/dvc.lock").write_text("schema: '2.0'\nstages: [")
    (fault,) = faults(loaded)
    assert (fault.kind, str(fault.path)) == ("lock file", "demo/dvc.lock")


def test_damage_of_every_kind_and_the_remedy_typed(project: Project) -> None:
    """All at once: two commands name and drop them, a third makes the run again, equal to the byte."""
    folder = project.folder
    outputs = {name: content for name, content in files_of(folder / DATA).items() if "report" not in name}
    parts = [
        sorted(folder.glob(f".work/demo/{stage}/**/*.npz"))[0] for stage in ("propose", "parse", "embed_masks@vit")
    ]
    manifest = next(folder.glob(".work/demo/embed_text@vit/**/manifest.jsonl"))
    damaged = [folder / name for name in FILES.values()] + [folder / at / name for at, name in FOLDERS.values()]
    for file in (*damaged, manifest, folder / ".work/demo/records/index.json"):
        flip(file)
    for part in parts:
        part.write_bytes(part.read_bytes()[:-40])
    said = project.typed("glimpse check --params demo/params.yaml", 1)
    shown = [*FILES.values(), *(at for at, _ in FOLDERS.values())]
    shown += [str(file.relative_to(folder)) for file in (*parts, manifest)]
    for name in (*shown, "records/index.json"):
        assert name in said, said
    with holding(folder / ".work/demo/overlap"):  # nothing is dropped under a stage that runs
        assert "another process" in project.typed("glimpse check --repair --params demo/params.yaml", 1)
    assert all(file.exists() for file in damaged)
    (remedy, then) = re.findall(r"to drop just those: (glimpse .*), then (dvc .*)", said)[0]
    assert "dropped" in project.typed(remedy)
    assert not any((folder / name).exists() for name in shown if not name.endswith(".jsonl"))
    assert (folder / "demo/metrics.json").exists()
    project.typed(then)
    found = json.loads(project.typed("glimpse check --json --params demo/params.yaml 2> err.txt"))
    assert found == {"faults": [], "dropped": False, "next": "everything that lies here is what was written"}
    now = files_of(folder / DATA)
    assert {name for name, content in outputs.items() if now[name] != content} == set()
    assert "up to date" in project.dvc("status", "demo/dvc.yaml")
    for cached in (folder / ".dvc/cache/files/md5").glob("*/*"):
        assert hashlib.md5(cached.read_bytes()).hexdigest() == (cached.parent.name + cached.name).removesuffix(".dir")


def test_a_profile_that_never_ran(project: Project) -> None:
    assert "everything that lies here is what was written" in project.typed("glimpse check")
    assert not os.path.exists(project.folder / ".work/full")
    assert h5py.is_hdf5(project.folder / FILES["index"])
