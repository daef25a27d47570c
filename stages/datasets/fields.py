"""Reading the fields of a row that someone else wrote, and recording what is wrong with it."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

NO_ID = -1
"""Stands for an id that is missing or no integer."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One fault: the file and row, and what is wrong there."""

    where: str
    reason: str


class Fields:
    """The fields of one row. A fault makes the row unusable, a note does not; both are added to ``problems``."""

    def __init__(self, row: object, where: str, problems: list[Problem]) -> None:
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

    def integer(self, key: str) -> int:
        """An integer from 0 to 2^63 - 1; anything else is a fault and gives ``NO_ID``."""
        value = self.row.get(key)
        if type(value) is int and 0 <= value < 2**63:
            return value
        self._wrong(key, "an integer from 0")
        return NO_ID

    def new_id(self, key: str, known: Mapping[int, object]) -> int:
        """Like ``integer``; one that is ``known`` already is a fault."""
        value = self.integer(key)
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

    def category(self, categories: Mapping[int, str]) -> tuple[int, str]:
        """Category id and name; a missing one spoils nothing but its own name."""
        value = self.row.get("category_id")
        if type(value) is int and value in categories:
            return value, categories[value]
        self.note(f"category_id: {shown(value)} is not among the categories")
        return NO_ID, ""

    def _wrong(self, key: str, expected: str) -> None:
        got = f"got {shown(self.row[key])}" if key in self.row else "it is missing"
        self.fault(f"{key}: expected {expected}, {got}")


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
