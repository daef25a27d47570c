"""What rules chose, as files for other tools: ``glimpse export``. The forms are in ``pipeline/exports``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline.commands.scored_runs import Run, groups_of, own_side
from pipeline.exports.known import FORMS
from pipeline.exports.registry import Asked
from pipeline.progress import track
from pipeline.project import LoadedProject
from store.errors import ParameterError, nearest
from store.schema import members
from store.states import State, left_out
from store.table import read_table

_SHOWN = 3
"""Rules that are named where their counts are alike."""


def export(
    project: LoadedProject, form: str, rule: str, out: Path, dataset: str | None = None, split: str | None = None
) -> list[str]:
    """Write what a rule chose ("" for the first, or for all where the form holds all); return lines that say what.

    Raises:
        ParameterError: no such form, rule, data set or split; or a folder that is there already.
    """
    if form not in FORMS:
        raise ParameterError(f"--format: no export format {form!r}; {nearest(form, FORMS)}")
    record = FORMS[form]
    _require_place(out, record.folder)
    side = own_side(project, rule)
    rules = members(side.run.scores.columns, "chosen") if record.every_rule and not rule else [side.name]
    asked = Asked(side.run, rules, groups_of(side.run, dataset, split), project.path(project.values.images), track)
    written = record.write(asked, out)
    files = [f"{file}: {what}" for file, what in written.files.items()]
    return [*_counts(asked), *(f"note: {note}" for note in written.notes), *files]


def _require_place(out: Path, folder: bool) -> None:
    """Raise a ParameterError where writing would take away a folder, or a file that stands where a folder should be."""
    if out.is_dir() and not folder:
        raise ParameterError(f"--out: expected a file to write, {out} is a folder; name a file in it")
    if folder and (out.is_file() or (out.is_dir() and any(out.iterdir()))):
        raise ParameterError(f"--out: expected a folder that is new or empty, {out} is not; name another, or remove it")


def _counts(asked: Asked) -> list[str]:
    """How many expressions are written, and for how many of them a rule has no choice or no measurement; rules alike share
    a line."""
    alike: dict[str, list[str]] = {}
    for name in asked.rules:
        alike.setdefault(_counted(asked.run, name, asked.groups), []).append(name)
    return [
        f"{', '.join(names) if len(names) <= _SHOWN else f'{len(names)} rules'}: {said}"
        for said, names in alike.items()
    ]


def _counted(run: Run, name: str, groups: Sequence[tuple[str, str]]) -> str:
    encoder = name.rpartition(":")[0]
    pairs = read_table(run.path("pairs", encoder), "pairs", ("expression_group", "expression_state"))
    wanted = [place for place, group in enumerate(pairs.attrs["groups"]) if tuple(group) in groups]
    rows = np.isin(pairs["expression_group"], wanted)
    states = np.array(pairs["expression_state"], np.str_)[rows]
    counts: dict[str, int] = {state: int((states == state).sum()) for state in State}
    counts["expressions"] = len(states)
    without = int((run.scores[f"chosen.{name}"][rows] < 0).sum())
    return f"{len(states):,} expressions, {without:,} without a choice, not evaluated: {left_out(counts) or 'none'}"
