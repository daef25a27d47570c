"""Damage to every file that a run wrote: found when it is read, or the values are those that were written."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import yaml

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

_TOGETHER = 12


class _Unit:
    """A file and how it is verified and read: as part of which output, part or record."""

    def __init__(self, bench: Bench, file: Path) -> None:
        self.file, self.bench = file, bench
        self.output = next(
            ((n, p) for s in STAGES for n, p in bench.outputs(s).items() if file == p or p in file.parents), None
        )
        self.record = file.parent.name == "records"
        self.is_view = bool(self.output and self.output[0] in VIEWS)

    def verify(self) -> None:
        """Raise a StoreError that names what is damaged."""
        if self.is_view:  # held to the output that they show
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
            return content_of_output(*self.output)
        if self.record:
            return read_record(self.file)
        if self.file.suffix == ".npz":
            with np.load(self.file) as stored:
                return {name: (stored[name].dtype.str, stored[name].tolist()) for name in stored.files}
        if self.file.suffix == ".jsonl":
            lines = self.file.read_bytes().split(b"\n")[:-1]
            return {json.dumps(json.loads(line)) for line in lines}  # a name that comes twice counts once, the last
        return json.loads(self.file.read_bytes())


def content_of_output(name: str, path: Path) -> Any:
    """What a reader gets of output ``name`` (a field of a stage's ``Paths``)."""
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


def corrupted_files(bench: Bench) -> list[Path]:
    """Every file of outputs, parts and records that is not empty."""
    files = [file for file in sorted(bench.live.rglob("*")) if file.is_file() and file.stat().st_size]
    return [file for file in files if not file.name.startswith((".", "vega-"))]


def corruptions(
    bench: Bench, total: int, rng: random.Random, share: tuple[int, int] = (0, 1), only: Sequence[str] = ()
) -> list[Tally]:
    """``total`` mutations of the files of outputs, parts and records, each tried and put back.

    Views of other outputs, which are compared with these, cost twenty times as much as others: they get a tenth of the tries.

    Args:
        share: (n, of): only every ``of``-th file from the n-th on, with its tries. only: no files but those of these names.
    """
    bench.restore()
    tallies = {name: Tally(f"corrupted {name}") for name in ("outputs", "parts", "records")}
    files = corrupted_files(bench)
    weights = [0.1 if _Unit(bench, file).is_view else 1.0 for file in files]
    for file, weight in list(zip(files, weights, strict=True))[share[0] :: share[1]]:
        if only and file.name not in only:
            continue
        seeds = [rng.randrange(2**32) for _ in range(math.ceil(total * weight / sum(weights)))]
        status, result, said = in_child(lambda file=file, seeds=seeds: _corrupted(bench, file, seeds), 600)  # type: ignore[misc]
        bench.restore()
        kind = "records" if file.parent.name == "records" else "parts" if "work" in file.parts else "outputs"
        for seed, came in zip(seeds, result or ["lost"] * len(seeds), strict=True):
            _note(tallies[kind], came, f"{file.relative_to(bench.live)}, seed {seed}: {came} ({status} {said[-100:]})")
    return list(tallies.values())


def _note(tally: Tally, came: str, what: str) -> None:
    tally.tried += 1
    setattr(tally, came, getattr(tally, came) + 1)
    if came in ("lost", "undetected"):
        tally.notes.append(what)


def _corrupted(bench: Bench, file: Path, seeds: Sequence[int]) -> list[str]:
    """What comes of each mutation: ``repaired`` if it is found and putting the file back mends it, ``harmless``, ..."""
    unit, content = _Unit(bench, file), file.read_bytes()
    before = _content_or_error(unit)
    found = []
    for seed in seeds:
        file.write_bytes(mutated(content, random.Random(seed)))
        found.append(_came(unit, before))
    file.write_bytes(content)
    unit.verify()
    return found


def _came(unit: _Unit, before: Any) -> str:
    try:
        unit.verify()
        after = _content_or_error(unit)
    except StoreError:
        return "repaired"
    except Exception:  # no message of ours: a traceback
        return "lost"
    fewer = isinstance(after, set) and after <= before  # lines of a manifest: their work is done again
    return "harmless" if fewer or after == before else "undetected"


def _content_or_error(unit: _Unit) -> Any:
    try:
        return unit.content()
    except StoreError as error:
        return str(error)


@contextmanager
def parsed_once() -> Iterator[None]:
    """DVC's own files, which stay as they are here, are parsed once each: that takes seconds, and is DVC's work."""
    from dvc.utils import strictyaml

    parse, load = cache(strictyaml.parse_yaml), cache(yaml.safe_load)
    with (
        mock.patch.object(strictyaml, "parse_yaml", lambda text, path, typ="safe": deepcopy(parse(text, path, typ))),
        mock.patch("yaml.safe_load", lambda text: deepcopy(load(text))),
    ):
        yield


def cached_objects(project: Project, total: int, rng: random.Random) -> Tally:
    """At least ``total`` mutations of objects in DVC's cache, of up to a dozen at once: each is named."""
    tally = Tally("corrupted objects in DVC's cache")
    loaded = load_project(project.folder / "demo/params.yaml")
    objects = sorted((project.folder / ".dvc/cache/files/md5").glob("*/*"))
    lists = [file for file in objects if file.suffix == ".dir"]  # of folders' objects, which a damaged one hides
    others = [file for file in objects if file.suffix != ".dir"]
    groups = [[file] for file in lists] + [others[n : n + _TOGETHER] for n in range(0, len(others), _TOGETHER)]
    while tally.tried < total:
        contents, seeds = {file: file.read_bytes() for file in groups[0]}, dict[Path, int]()
        groups = [*groups[1:], groups[0]]
        for file, content in contents.items():
            seeds[file] = rng.randrange(2**32)
            file.chmod(0o644)
            file.write_bytes(mutated(content, random.Random(seeds[file])))
        named = {Path.cwd() / fault.path for fault in check_cache(loaded) if fault.kind == "cached object"}
        for file, content in contents.items():
            file.write_bytes(content)
            _note(tally, "repaired" if file in named else "undetected", f"{file.name}, seed {seeds[file]}")
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
