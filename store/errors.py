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

import os
import re
import shlex
import unicodedata
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


def extra(name: str) -> str:
    """What to type for the libraries of an extra of pyproject.toml: the pinned ones, for a project is a checkout."""
    return f"pip install -c constraints.txt -e '.[{name}]' in the project's folder"


def rerun(stage: str) -> str:
    """The remedy "run this stage again", for a stage whose outputs are not at fault, with either profile's dvc.yaml."""
    return f"run stage {stage} again: dvc repro --force --single-item dvc.yaml:{stage} (demo/dvc.yaml:{stage} for the demo)"


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint for a misspelt ``name``: the nearest known name, and all of them."""
    known = sorted(known)
    close = get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}known: {', '.join(known) or 'none'}"


_ADDRESS = re.compile(r"\b0x[0-9a-fA-F]{6,}")
_ESCAPE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|.)?")


def plain(text: str) -> str:
    """``text`` for a terminal or a file: without codes that a terminal obeys or that change the order of signs, without
    memory addresses, which differ from run to run. Lines stay.

    >>> plain("a\\x1b[31mb\\x07 <x at 0x7f8e12345678>")
    'ab? <x at ...>'
    """
    shown = _ESCAPE.sub("", text)
    shown = "".join(c if c == "\n" or unicodedata.category(c) not in ("Cc", "Cf", "Cs") else "?" for c in shown)
    return _ADDRESS.sub("...", shown)


_ADVICE = re.compile(
    r"weights_only|https?:|\b(?:please|try|consider|recommend|suggest|set|use|pass|install|upgrade|report|see|run)\b",
    re.IGNORECASE,
)
"""Words by which a sentence of another library is taken for advice."""
_LONGEST = 240


def reason(error: BaseException) -> str:
    """Why another library or the system failed, for a message of ours: without its advice, which does not know Glimpse.

    >>> reason(ValueError("has 5000 digits; use another function. It is too long\\nmore"))
    'has 5000 digits. It is too long'
    """
    if isinstance(error, OSError) and error.strerror:
        return plain(error.strerror)
    first = next(iter(plain(str(error)).strip().splitlines()), "")
    kept = ". ".join(part for part in re.split(r"(?<=[a-z0-9)])[.;] ", first) if not _ADVICE.search(part))
    return (kept if len(kept) <= _LONGEST else f"{kept[:_LONGEST]}...") or type(error).__name__


@contextmanager
def reading(path: Path, remedy: str) -> Iterator[None]:
    """Map the errors of a reader (OS, HDF5, Zarr, JSON) of ``path`` to a ``StoreError`` with a remedy.

    Damaged bytes can fail in any instruction of a reader, with any error: struct's, an assertion, too little memory.
    """
    try:
        yield
    except GlimpseError:
        raise
    except FileNotFoundError as error:
        raise StoreError(f"{path}: expected a file made by an earlier stage, found none; {remedy}") from error
    except OSError as error:
        if error.filename is not None and error.errno:  # the system's, not a library's
            raise StoreError(
                f"{path}: cannot be read: {os.strerror(error.errno)}; check its rights and the disk, or {remedy}"
            ) from error
        raise StoreError(_damaged(path, error, remedy)) from error
    except Exception as error:
        raise StoreError(_damaged(path, error, remedy)) from error


def _damaged(path: Path, error: Exception, remedy: str) -> str:
    return f"{path}: cannot be read, it is damaged or of another form ({reason(error)}); {remedy}"
