"""Reading the fields of a row that someone else wrote, and recording what is wrong with it."""

from __future__ import annotations

import hashlib
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

_MOST_DIGITS = 18
NO_ID = -1
"""Stands for an id that is missing or no integer."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One fault: the file and row, and what is wrong there."""

    where: str
    reason: str


class Problems(list[Problem]):
    """Faults and notes, in order."""

    def __init__(self) -> None:
        super().__init__()
        self._noted: set[tuple[str, str]] = set()

    def once(self, file: str, what: str, reason: str) -> None:
        """Note a habit of a whole file, ``what``, where it shows first: it may hold for every row."""
        if (file, what) not in self._noted:
            self._noted.add((file, what))
            self.append(Problem(file, f"{reason}; other rows of this kind are not listed"))


class Fields:
    """The fields of one row. A fault makes the row unusable, a note does not; both are added to ``problems``."""

    def __init__(self, row: object, where: str, problems: Problems) -> None:
        self.row: Mapping[Any, Any] = row if isinstance(row, dict) else {}
        self.where = where
        self.problems = problems
        self._faults: list[str] = []
        if not isinstance(row, dict):
            self.fault(f"expected a dict, got {type(row).__name__}")

    @property
    def status(self) -> str:
        """The faults so far, "" for none."""
        return "; ".join(self._faults)

    def fault(self, reason: str) -> None:
        self._faults.append(reason)
        self.note(reason)

    def note(self, reason: str) -> None:
        self.problems.append(Problem(self.where, reason))

    def note_once(self, what: str, reason: str) -> None:
        """Note what may hold for every row of the file, once for the file."""
        self.problems.once(self.where.partition("[")[0].rstrip(), what, reason)

    def integer(self, key: str) -> int:
        """An integer from 0 to 2^63 - 1; anything else is a fault and gives ``NO_ID``."""
        value = self.row.get(key)
        if type(value) is int and 0 <= value < 2**63:
            return value
        self._wrong(key, "an integer from 0")
        return NO_ID

    def identifier(self, key: str) -> int:
        """Like ``integer``; text of digits and a float without a fraction stand for the integer, which is noted."""
        number = whole_number(self.row.get(key))
        if number is None:
            return self.integer(key)
        self.note_once(key, f"{key}: expected an integer, got {shown(self.row[key])}; taken for {number}")
        return number

    def new_id(self, key: str, known: Mapping[int, object]) -> int:
        """Like ``identifier``; one that is ``known`` already is a fault."""
        value = self.identifier(key)
        if value != NO_ID and value in known:
            self.fault(f"{key} {value} appears a second time; the first row holds")
        return value

    def text(self, key: str) -> str:
        """Text, which may be empty; anything else is a fault and gives ""."""
        value = self.row.get(key)
        if isinstance(value, str) and _is_unicode(value):
            return value
        self._wrong(key, "text")
        return ""

    def words(self, key: str) -> tuple[str, str]:
        """Text with words in it, or a list of texts joined by spaces; and what is wrong where it is neither, else ""."""
        value = self.row.get(key)
        if isinstance(value, list | tuple) and all(isinstance(token, str) for token in value):
            value = " ".join(value)
        if not isinstance(value, str) or not _is_unicode(value):
            return "", self._expected(key, "text")
        return value, f"{key}: blank" if is_blank(value) else ""

    def category(self, categories: Mapping[int, str]) -> tuple[int, str]:
        """Category id and name; a missing one spoils nothing but its own name."""
        value = self.row.get("category_id")
        if isinstance(value, list) and value:  # of several objects: the first one's
            value = value[0]
        number = whole_number(value)
        if number is None and type(value) is int:
            number = value
        if number is not None and number in categories:
            return number, categories[number]
        self.note(f"category_id: {shown(value)} is not among the categories")
        return NO_ID, ""

    def _wrong(self, key: str, expected: str) -> None:
        self.fault(self._expected(key, expected))

    def _expected(self, key: str, expected: str) -> str:
        got = f"got {shown(self.row[key])}" if key in self.row else "it is missing"
        return f"{key}: expected {expected}, {got}"


def unsafe_name(file_name: str) -> str | None:
    """Why a file name could lead out of the image root, on any system; None for a safe one."""
    for flavour in (PurePosixPath, PureWindowsPath):
        path = flavour(file_name)
        if path.is_absolute() or path.drive or path.root:
            return f"file_name {file_name!r} is absolute, expected a path below the image root"
        if ".." in path.parts:
            return f"file_name {file_name!r} climbs out of the image root"
        if not path.name or "\0" in file_name:
            return f"file_name {file_name!r} names no file"
    return None


def is_blank(text: str) -> bool:
    """Whether nothing of a text can be seen: white space, and characters without a shape (U+200B), do not count."""
    return not any(character.isprintable() and not character.isspace() for character in text)


def whole_number(value: object) -> int | None:
    """The integer from 0 that text of digits or a float without a fraction stands for; None for all else, also an int."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= _MOST_DIGITS:
        return int(value)
    if isinstance(value, float) and value.is_integer() and 0 <= value <= 2**53:
        return int(value)
    return None


def text_number(text: str) -> int:
    """An int64 id that stands for a text, 0 to 2^52 - 1: exact in a float64 and in JavaScript too."""
    return int(hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:13], 16)


def is_number(value: object) -> bool:
    """A number that a float64 or int64 can hold; NaN, infinity and bool are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**63


def shown(value: object) -> str:
    """A value as messages show it: short, whatever it is."""
    try:
        return f"{type(value).__name__} {reprlib.repr(value):.60}"
    except ValueError:  # Python refuses to write out an integer of thousands of digits
        return f"a huge {type(value).__name__}"


def _is_unicode(text: str) -> bool:
    """False for half a surrogate pair, which no file of ours can hold."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
