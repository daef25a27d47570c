"""The errors of Glimpse, and the one place where errors of other libraries are mapped to them.

    GlimpseError
    ├── ParameterError     a value in params.yaml, on the command line or of an API call
    ├── DataError          annotations, images or masks as the user gave them
    │   └── TransientError a file that is missing or changed at present: never stored as a result
    ├── WeightsError       model files
    ├── CodeError          code and libraries: missing, or not those that a process has loaded
    └── StoreError         what a stage wrote and another one reads
        └── BusyError      another process writes in the same work folder

A message says what was expected, what came, where (file, key, row) and what to do.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path


class GlimpseError(Exception):
    """Base of every error that Glimpse raises on purpose."""


class ParameterError(GlimpseError):
    """A parameter is unknown, misspelt or out of range."""


class DataError(GlimpseError):
    """The user's data are missing, broken or not of the expected form."""


class TransientError(DataError):
    """A file that is missing, or has changed since it was indexed; the next run may find it as it was."""


class WeightsError(GlimpseError):
    """A model file is missing, broken, of another architecture or not the expected one."""


class CodeError(GlimpseError):
    """A source file or library is missing, or differs from what a process has loaded."""


class StoreError(GlimpseError):
    """A stage's output is missing, incomplete, damaged or made from other inputs."""


class BusyError(StoreError):
    """Another process holds the lock of a work folder."""


def repair(path: Path) -> str:
    """The remedy for an output that is missing, damaged or made from other inputs: make it again.

    Not by `dvc repro --force`: an output may be a link into DVC's cache, which would put the damaged object back.
    """
    return f"make it again: glimpse repair {shlex.quote(str(path))}"


def rerun(stage: str) -> str:
    """The remedy "run this stage again", for a stage whose outputs are not at fault, with either profile's dvc.yaml."""
    return f"run stage {stage} again: dvc repro --force --single-item dvc.yaml:{stage} (demo/dvc.yaml:{stage} for the demo)"


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint for a misspelt ``name``: the nearest known name, and all of them."""
    known = sorted(known)
    close = get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}known: {', '.join(known) or 'none'}"


@contextmanager
def reading(path: Path, remedy: str) -> Iterator[None]:
    """Map the errors of a reader (OS, HDF5, Zarr, JSON) of ``path`` to a ``StoreError`` with a remedy."""
    try:
        yield
    except GlimpseError:
        raise
    except FileNotFoundError as error:
        raise StoreError(f"{path}: expected a file made by an earlier stage, found none; {remedy}") from error
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise StoreError(f"{path}: cannot be read, it is damaged or of another form ({error}); {remedy}") from error
