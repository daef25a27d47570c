"""What ``propose.input`` names: one file, or a folder with a file or more for each image."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import IO, cast

from store.errors import DataError
from store.regular import open_regular

NO_VALUE = object()
"""Stands for the value of what is no JSON."""
_GZIP = b"\x1f\x8b"
_TEXT_STARTS = b"[{"
_MARK = b"\xef\xbb\xbf"
"""The byte order mark that some editors write."""


class Given:
    """A file or folder of masks, looked into at most once.

    Attributes:
        path: the file or folder.
        problem: why ``value`` is ``NO_VALUE``, once that was asked for.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.problem = ""

    @cached_property
    def is_folder(self) -> bool:
        return self.path.is_dir()

    @cached_property
    def files(self) -> list[Path]:
        """The file itself, or all files below the folder, sorted; hidden ones and what macOS adds do not count."""
        if not self.is_folder:
            return [self.path]
        found = (file for file in self.path.rglob("*") if file.is_file())
        return sorted(file for file in found if not any(map(_is_hidden, file.relative_to(self.path).parts)))

    def named(self, *endings: str) -> list[Path]:
        """The files whose names end so, in any case."""
        return [file for file in self.files if file.name.lower().endswith(endings)]

    def image_of(self, file: Path, *endings: str) -> str:
        """What a file of one image calls it: its path below the folder without the first of ``endings`` it has."""
        name = file.relative_to(self.path).as_posix() if self.is_folder else file.name
        return next((name[: -len(end)] for end in endings if name.lower().endswith(end)), name)

    @cached_property
    def value(self) -> object:
        """The value of a file of JSON, ``NO_VALUE`` for anything else.

        Raises:
            DataError: the file cannot be read.
        """
        if self.is_folder or not starts_as_json(self.path):
            self.problem = "a folder" if self.is_folder else "this is no JSON (it does not begin with [ or {)"
            return NO_VALUE
        try:
            return read_value(self.path)
        except DataError as error:
            self.problem = str(error)
            return NO_VALUE

    @cached_property
    def is_lines(self) -> bool:
        """Whether the file is JSON Lines: its first line is an object by itself, and others follow."""
        if self.is_folder or not starts_as_json(self.path):
            return False
        numbered = lines(self.path)
        _, first = next(numbered, (0, b""))
        return first.startswith(b"{") and next(numbered, None) is not None and _is_json(first)


def starts_as_json(file: Path) -> bool:
    """Whether the first character of a file, compressed by gzip or not, is that of a JSON list or object.

    Raises:
        DataError: it cannot be read.
    """
    with _opened(file) as opened:
        try:
            first = opened.read(256)
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{file}: cannot be read ({error})") from error
    start = first.removeprefix(_MARK).lstrip()
    return bool(start) and start[0] in _TEXT_STARTS


def read_value(file: Path) -> object:
    """The value of a JSON file, compressed by gzip or not.

    Raises:
        DataError: it cannot be read, or is no JSON.
    """
    with _opened(file) as opened:
        try:
            return json.loads(opened.read())
        except (ValueError, RecursionError) as error:
            raise DataError(f"this is no JSON ({error})") from error
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{file}: cannot be read ({error})") from error


def lines(file: Path) -> Iterator[tuple[int, bytes]]:
    """Number, from 1, and text of each line of a file that is not blank; compressed by gzip or not.

    Raises:
        DataError: it cannot be read.
    """
    with _opened(file) as opened:
        try:
            for number, line in enumerate(opened, 1):
                if stripped := line.removeprefix(_MARK).strip():
                    yield number, stripped
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{file}: cannot be read ({error})") from error


def _opened(file: Path) -> IO[bytes]:
    try:
        with open_regular(file) as opened:
            compressed = opened.read(2) == _GZIP
        return cast(IO[bytes], gzip.open(file)) if compressed else open_regular(file)
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror})") from error


def _is_json(text: bytes) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"
