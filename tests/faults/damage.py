"""Damage to every file that a run wrote: found when it is read, or the values are those that were written."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.checks.cache import check_cache
from pipeline.checks.outputs import VIEWS, check_outputs, read_output
from pipeline.commands.check import drop, faults
from pipeline.project import load_project
from pipeline.registry import STAGES, stage_module
from store.document import read_document, read_record
from store.errors import StoreError
from store.table import read_table
from store.vectors import Vectors
from store.verify_parts import bad_parts
from tests.faults.bench import Bench, Tally
from tests.faults.injection import in_child
from tests.faults.mutation import mutated
from tests.helpers.dvc_project import Project

_BATCH = 250


class _Unit:
    """A file and how it is verified and read: as part of which output, part or record."""

    def __init__(self, bench: Bench, file: Path) -> None:
        self.file, self.bench = file, bench
        self.output = next(
            ((n, p) for s in STAGES for n, p in bench.outputs(s).items() if file == p or p in file.parents), None
        )
        self.record = file.parent.name == "records"

    def verify(self) -> None:
        """Raise a StoreError that names what is damaged."""
        if self.output and self.output[0] in VIEWS:  # held to the output that they show
            for fault in check_outputs(self.bench.project):
                raise StoreError(fault.what)
        elif self.output:
            read_output(self.output[1], self.output[0])
        elif self.record:
            read_record(self.file)
        else:
            for bad in bad_parts(self.file.parent):
                raise StoreError(str(bad))

    def content(self) -> Any:
        """What a reader gets of it."""
        if self.output:
            return _content(*self.output)
        if self.record:
            return read_record(self.file)
        if self.file.suffix == ".npz":
            with np.load(self.file) as stored:
                return {name: (stored[name].dtype.str, stored[name].tolist()) for name in stored.files}
        if self.file.suffix == ".jsonl":
            return set(self.file.read_bytes().split(b"\n")[:-1])
        return json.loads(self.file.read_bytes())


def _content(name: str, path: Path) -> Any:
    if path.suffix == ".json" and name not in VIEWS:
        producer = next(s for s in STAGES if name in stage_module(s).Paths.outputs)
        return read_document(path, producer)
    if path.suffix == ".h5":
        return {c: _plain(v) for c, v in read_table(path, name).columns.items()}
    if name == "variants":
        return [{c: _plain(v) for c, v in read_table(f, "pairs").columns.items()} for f in sorted(path.glob("*.h5"))]
    if path.is_dir():
        vectors = Vectors(path, name)
        columns = {key.removesuffix(".bytes").removesuffix(".offsets") for key in vectors.attrs["columns"]}
        return {
            c: _plain(vectors.rows(c) if c.startswith(("view.", "feature")) else vectors.column(c)) for c in columns
        }
    return path.read_bytes()


def _plain(value: Any) -> Any:
    return (value.dtype.str, value.tobytes()) if isinstance(value, np.ndarray) else list(value)


def corruptions(bench: Bench, total: int, rng: random.Random) -> list[Tally]:
    """Mutations of all files of outputs, parts and records, each tried ``total / files`` times and put back."""
    bench.restore()
    files = [file for file in sorted(bench.live.rglob("*")) if file.is_file() and file.stat().st_size]
    files = [file for file in files if not file.name.startswith((".", "vega-"))]
    tallies = {name: Tally(f"corrupted {name}") for name in ("outputs", "parts", "records")}
    tries = [(file, rng.randrange(2**32)) for file in files for _ in range(-(-total // len(files)))]
    for start in range(0, len(tries), _BATCH):
        batch = tries[start : start + _BATCH]
        status, result, said = in_child(lambda batch=batch: [_corrupted(bench, *each) for each in batch], 600)  # type: ignore[misc]
        bench.restore()
        for (file, seed), came in zip(batch, result or ["lost"] * len(batch), strict=True):
            kind = "records" if file.parent.name == "records" else "parts" if "work" in file.parts else "outputs"
            _note(tallies[kind], came, f"{file.relative_to(bench.live)}, seed {seed}: {came} ({status} {said[-100:]})")
    return list(tallies.values())


def _note(tally: Tally, came: str, what: str) -> None:
    tally.tried += 1
    setattr(tally, came, getattr(tally, came) + 1)
    if came in ("lost", "undetected"):
        tally.notes.append(what)


def _corrupted(bench: Bench, file: Path, seed: int) -> str:
    """What comes of one mutation: ``repaired`` if it is found and putting the file back mends it, ``harmless``, ..."""
    unit, content = _Unit(bench, file), file.read_bytes()
    before = _content_or_error(unit)
    file.write_bytes(mutated(content, random.Random(seed)))
    try:
        unit.verify()
        after = _content_or_error(unit)
        fewer = isinstance(after, set) and after <= before  # lines of a manifest: their work is done again
        came = "harmless" if fewer or after == before else "undetected"
    except StoreError:
        came = "repaired"
    except Exception:  # no message of ours: a traceback
        came = "lost"
    finally:
        file.write_bytes(content)
    unit.verify()
    return came


def _content_or_error(unit: _Unit) -> Any:
    try:
        return unit.content()
    except StoreError as error:
        return str(error)


def cached_objects(project: Project, total: int, rng: random.Random) -> Tally:
    """Mutations of objects in DVC's cache: each is named."""
    tally = Tally("corrupted objects in DVC's cache")
    loaded = load_project(project.folder / "demo/params.yaml")
    objects = sorted((project.folder / ".dvc/cache/files/md5").glob("*/*"))
    for number in range(total):
        file = objects[number % len(objects)]
        content, seed = file.read_bytes(), rng.randrange(2**32)
        file.chmod(0o644)
        file.write_bytes(mutated(content, random.Random(seed)))
        named = {Path.cwd() / fault.path for fault in check_cache(loaded) if fault.kind == "cached object"}
        file.write_bytes(content)
        _note(tally, "repaired" if file in named else "undetected", f"{file.name}, seed {seed}")
    return tally


def wrong_files(project: Project) -> Tally:
    """Well-formed outputs that are not the run's: those of another stage's name, zeros, copies of each other."""
    tally = Tally("well-formed wrong files")
    loaded = load_project(project.folder / "demo/params.yaml")
    data = project.folder / "data/demo"
    tables = sorted(data.glob("**/*.h5"))
    for file in tables:
        content = file.read_bytes()
        for other in (*(each for each in tables if each != file), None):
            file.unlink()
            file.write_bytes(b"\0" * len(content) if other is None else other.read_bytes())
            found = faults(loaded)
            named = any(file == p or p in file.parents for p in (Path.cwd() / fault.path for fault in found))
            file.unlink()
            file.write_bytes(content)
            _note(tally, "repaired" if named else "undetected", f"{file} was replaced by {other or 'zeros'}")
    assert not drop(loaded, faults(loaded))
    return tally
