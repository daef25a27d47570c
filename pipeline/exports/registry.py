"""Forms: ways to write what rules chose into files that other tools read, one file of this folder each.

A form gets the run, the rules that were asked for and the splits, and writes one file or folder; every table of forms asks
here. A file in the room ``exports`` of an extensions folder adds another one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.commands.scored_runs import Run
from store.registry import Record, Registry


def _silent(items: Sequence[Any], label: str) -> Iterable[Any]:
    return items


@dataclass(frozen=True)
class Asked:
    """What is to be exported.

    Attributes:
        run: of which. rules: names as in its columns ``chosen.<name>``, at least one; a form of one rule takes the first.
        groups: (data set, split) that are wanted. images: the folder of the images.
        track: wraps a sequence to show progress under a label.
    """

    run: Run
    rules: list[str]
    groups: list[tuple[str, str]]
    images: Path
    track: Callable[[Sequence[Any], str], Iterable[Any]] = _silent


@dataclass
class Written:
    """The files of an export, each with what it holds, and what a reader must know about their content."""

    files: dict[Path, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Form(Record):
    """A form of export.

    Attributes:
        name: as ``--format`` has it. meaning: one line, for people. folder: whether it is a folder, not a file.
        write: ``(asked, out) -> Written``; ``out`` is not there yet, or a file that is replaced.
        every_rule: whether it holds all rules where none is named.
    """

    meaning: str
    folder: bool
    write: Callable[[Asked, Path], Written]
    every_rule: bool = False


FORMS: Registry[Form] = Registry("export format", "exports")
