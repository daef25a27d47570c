"""What DVC recorded of a profile's outputs, and their objects in its cache, each compared with its MD5 digest.

DVC trusts a cached object as long as it is read-only, and an output that is a link to it is damaged with it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.checks.fault import Fault
from pipeline.project import LoadedProject
from store.fingerprint import file_digest
from store.publish import remove

_OF_FOLDER = ".dir"
_NOT_NAMED_BY = ["size", "nfiles"]
"""What the name of a record of a run, a digest, leaves out."""


def check_cache(project: LoadedProject) -> Iterator[Fault]:
    """Outputs that are not those of DVC's lock file, and damaged objects of them in DVC's cache; a damaged lock file.

    Nothing where there is no DVC project, or no run of the profile is recorded.
    """
    file = project.file.parent / "dvc.yaml"
    lock = file.with_suffix(".lock")
    if not lock.is_file() or not file.is_file():
        return
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo(str(project.folder)) as repo:
            # Its numbers are compared, not its bytes: it may be another run's with equal ones (see ``store.agreement``).
            metrics = os.path.abspath(project.path(project.values.metrics))
            for stage in repo.stage.load_all(str(file)):
                for output in stage.outs:
                    if output.hash_info and output.fs_path != metrics:
                        name = str(stage.name)
                        yield from _cached(output, name)
                        yield from _other(output, name)
            yield from _runs(repo, project)
    except DvcException as error:
        what = f"DVC cannot read what it recorded of this profile ({error})"
        yield Fault("lock file", "", lock, what, partial(remove, lock))


def damaged_objects(output: Any) -> Iterator[Path]:
    """The objects of a DVC output in DVC's cache of which the content is not what their name, an MD5 digest, says."""
    if not output.use_cache or not output.hash_info:
        return
    yield from _damaged(output.cache, output.hash_info.value)


def _damaged(cache: Any, name: str) -> Iterator[Path]:
    """The damaged objects among object ``name`` and, where it lists the files of a folder, theirs."""
    names = [name]
    for each in names:
        file = Path(cache.oid_to_path(each))
        if not file.exists():
            continue
        if file_digest(file, "md5") != each.removesuffix(_OF_FOLDER):
            yield file
        elif each.endswith(_OF_FOLDER):
            names += [entry["md5"] for entry in json.loads(file.read_bytes())]


def _cached(output: Any, stage: str) -> Iterator[Fault]:
    for file in damaged_objects(output):
        yield _object(file, stage, _shown(output.fs_path))


def _object(file: Path, stage: str, of: Path) -> Fault:
    found = file_digest(file, "md5")
    what = f"of {of}: its content has MD5 digest {found}, not the one that it is named by"
    return Fault("cached object", stage, _shown(file), what, partial(remove, file))


def _shown(path: Any) -> Path:
    """A path from here, where it lies below."""
    absolute, here = Path(os.path.abspath(path)), Path.cwd()
    return absolute.relative_to(here) if absolute.is_relative_to(here) else absolute


def _other(output: Any, stage: str) -> Iterator[Fault]:
    """The output, if it is another one than DVC recorded."""
    path = Path(output.fs_path)
    if not path.exists():
        return
    expected, found = output.hash_info.value, _digest(path)
    if found != expected:
        what = (
            f"expected what DVC recorded (MD5 digest {expected}), found {found}: damaged, replaced, or made without DVC"
        )
        yield Fault("output", stage, _shown(path), what, partial(remove, path))


def _digest(path: Path) -> str:
    """The digest by which DVC names a file, or a folder: of the list of its files."""
    if not path.is_dir():
        return file_digest(path, "md5")
    files = {file.relative_to(path).as_posix(): file for file in path.rglob("*") if file.is_file()}
    listed = [{"md5": file_digest(file, "md5"), "relpath": name} for name, file in files.items()]
    listed.sort(key=lambda entry: tuple(entry["relpath"].split("/")))
    return hashlib.md5(json.dumps(listed, sort_keys=True).encode(), usedforsecurity=False).hexdigest() + _OF_FOLDER


def _runs(repo: Any, project: LoadedProject) -> Iterator[Fault]:
    """Damaged objects of earlier runs of this profile, which DVC puts back in place when their values return."""
    import yaml
    from dvc.utils import dict_sha256

    cache = repo.cache.local
    data = os.path.relpath(project.path(project.values.data), project.folder)
    for file in sorted(Path(repo.stage_cache.cache_dir).glob("*/*/*")):
        try:
            run = yaml.safe_load(file.read_bytes())
            named = {str(out["md5"]): str(out["path"]) for out in run["outs"] if "md5" in out}
            whole = dict_sha256(run, exclude=_NOT_NAMED_BY) == file.name
        except (yaml.YAMLError, ValueError, TypeError, KeyError, OSError):
            named, whole = {}, False
        if not whole:
            what = "DVC's record of an earlier run is not what it is named by"
            yield Fault("cached run", "", _shown(file), what, partial(remove, file))
            continue
        for name, path in named.items():
            if path.startswith(data):
                for damaged in _damaged(cache, name):
                    yield _object(damaged, "", Path(path))
