"""``glimpse repair``: make one output again, even if its object in DVC's cache is damaged.

DVC trusts an object in its cache as long as it is read-only. An output may be a link to that object, so what
damages one damages both, and `dvc repro --force` would put the damaged object back in place of the new output.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from pipeline.checks.cache import damaged_objects
from pipeline.foreign import how_it_ended
from store.errors import StoreError
from store.publish import remove

_ATTEMPTS = 3


@dataclass(frozen=True)
class _Found:
    """An output, the DVC project and the stage that it belongs to, and the stage's damaged objects in DVC's cache."""

    output: Path
    project: Path
    stage: str
    damaged: list[Path]


def repair(path: Path) -> list[Path]:
    """Make the output ``path`` (or that it lies in) again; returns the objects removed from DVC's cache.

    Removed are the output and every object of its stage in the cache that is not what its name says. Then `dvc repro`
    takes the output from the cache if it is intact there, else it runs the stage (and stages before it if they are stale).

    Raises:
        StoreError: ``path`` is no output of a stage, or `dvc repro` failed.
    """
    removed: list[Path] = []
    target = _find(path)
    for _ in range(_ATTEMPTS):  # a damaged list of a folder's files hides which of them are damaged
        for file in target.damaged:
            remove(file)
        removed += target.damaged
        remove(target.output)
        command = ["dvc", "repro", target.stage]
        done = subprocess.run([sys.executable, "-m", *command], cwd=target.project, check=False)
        if done.returncode:
            raise StoreError(
                f"{path}: `{' '.join(command)}` in {target.project} failed, it {how_it_ended(done.returncode)}, see "
                "above; mend that, then repair it"
            )
        target = _find(path)
        if not target.damaged:
            return removed
    raise StoreError(f"{path}: damaged again {_ATTEMPTS} times; check the disk that {target.damaged} lie on")


def _find(path: Path) -> _Found:
    from dvc.exceptions import DvcException, OutputNotFoundError
    from dvc.repo import Repo

    target = Path(os.path.abspath(path))
    folder = next(folder for folder in target.parents if folder.is_dir())
    try:
        with Repo(str(folder)) as repo:
            for place in (target, *target.parents):
                try:
                    output = repo.find_outs_by_path(str(place))[0]
                except OutputNotFoundError:
                    continue
                stage, project = output.stage, Path(repo.root_dir)
                damaged = [file for out in stage.outs for file in damaged_objects(out)]
                name = f"{os.path.relpath(stage.path, project)}:{stage.name}"
                return _Found(Path(output.fs_path), project, name, damaged)
    except DvcException as error:
        raise StoreError(f"{path}: expected an output of a stage of a dvc.yaml ({error})") from error
    raise StoreError(f"{path}: expected an output of a stage of a dvc.yaml, no stage has it; run again what made it")
