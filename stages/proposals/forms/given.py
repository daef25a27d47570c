"""What ``propose.input`` names: one file, or a folder with a file or more for each image."""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import IO

from store.errors import DataError
from store.memory import Unfolding, json_bytes, require_memory, too_much
from store.regular import open_regular

NO_VALUE = object()
"""Stands for the value of what is no JSON."""
_GZIP = b"\x1f\x8b"
_TEXT_STARTS = b"[{"
_MARK = b"\xef\xbb\xbf"
"""The byte order mark that some editors write."""
MOST_LINE = 2**28
"""Bytes of a line of JSON Lines, which is held whole."""
_PIECE, _SHORT_LINE = 2**24, 2**20
_SMALLER = "write JSON Lines, a mask on each line, which is read line by line"


class LongLine(DataError):
    """A line is too long to be held: JSON in one line may be, and is none of JSON Lines."""


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
        try:
            _, first = next(numbered, (0, b""))
            return first.startswith(b"{") and next(numbered, None) is not None and _is_json(first)
        except LongLine:
            return False


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
            return json.loads(_whole(file, opened))
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
            for number, line in enumerate(iter(lambda: opened.readline(MOST_LINE + 1), b""), 1):
                if len(line) > MOST_LINE or (len(line) > _SHORT_LINE and too_much(json_bytes(line))):
                    most = f"{MOST_LINE:,} bytes, and no more values than memory holds"
                    raise LongLine(f"{file}: line {number}: expected at most {most}; {_SMALLER}")
                if stripped := line.removeprefix(_MARK).strip():
                    yield number, stripped
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{file}: cannot be read ({error})") from error


def _opened(file: Path) -> IO[bytes]:
    try:
        with open_regular(file) as opened:
            compressed, size = opened.read(2) == _GZIP, file.stat().st_size
        return io.BufferedReader(Unfolding(gzip.open(file), size), 2**17) if compressed else open_regular(file)
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror})") from error


def _whole(file: Path, opened: IO[bytes]) -> bytes:
    """All that ``opened`` reads, where there is memory for it and for the values in it.

    Raises:
        DataError: there is not.
    """
    pieces, size = list[bytes](), 0
    while piece := opened.read(_PIECE):
        pieces.append(piece)
        size += len(piece)
        require_memory(2 * size, str(file), _SMALLER)  # the pieces and the whole
    text = b"".join(pieces)
    require_memory(json_bytes(text), f"{file}: the values in it", _SMALLER)
    return text


def _is_json(text: bytes) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"
