"""``glimpse check``: whether all that lies on disk of a profile is what was written; drops what is not.

Every output is read whole and compared with its checksums, with the outputs that it was made from and with what DVC
recorded; likewise every part, its manifest and label, the records, and the objects in DVC's cache.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import ExitStack

from pipeline.checks.cache import check_cache
from pipeline.checks.fault import Fault
from pipeline.checks.outputs import check_outputs
from pipeline.checks.parts import check_work
from pipeline.project import LoadedProject, repro, with_params
from pipeline.registry import instances
from pipeline.runner import Execution
from store.locks import locked


def faults(project: LoadedProject) -> list[Fault]:
    """All bad units of a profile, each once."""
    recorded = list(check_cache(project))
    others = frozenset(os.path.abspath(fault.path) for fault in recorded if fault.kind == "output")
    found = [*check_outputs(project, others), *check_work(project), *recorded]
    first: dict[tuple[bool, str, int], Fault] = {}
    for fault in found:  # what an output itself says comes before what DVC says of it
        first.setdefault((fault.kind == "cached object", os.path.abspath(fault.path), fault.line), fault)
    return list(first.values())


def drop(project: LoadedProject, found: Sequence[Fault]) -> list[Fault]:
    """Remove the bad units among ``found`` and whatever else is bad once they are gone; what was removed.

    Raises:
        BusyError: a stage runs that would lose what it writes.
    """
    work, wait = project.path(project.values.work), Execution.from_environment().wait
    dropped: list[Fault] = []
    with ExitStack() as locks:
        for instance in instances(project.values.encoders):
            if (work / instance.name).is_dir():
                locks.enter_context(locked(work / instance.name, wait))
        while found:  # a damaged list of a folder's files hides which of them are damaged
            for fault in found:
                fault.drop()
            dropped += found
            gone = {(fault.kind, fault.path, fault.line) for fault in dropped}
            found = [f for f in faults(project) if (f.kind, f.path, f.line) not in gone and f.kind == "cached object"]
    return dropped


def as_json(project: LoadedProject, found: Sequence[Fault], dropped: bool) -> str:
    """The bad units as JSON: a list of {kind, stage, path, line, what}, whether they were dropped, and what to run next."""
    units = [
        {"kind": f.kind, "stage": f.stage, "path": str(f.path), "line": f.line or None, "what": f.what} for f in found
    ]
    return json.dumps({"faults": units, "dropped": dropped, "next": _next(project, found, dropped)}, indent=1)


def lines(project: LoadedProject, found: Sequence[Fault], dropped: bool) -> list[str]:
    """What the command prints: a line for each bad unit, and what to do."""
    verb = "dropped " if dropped else ""
    return [*(f"{verb}{fault}" for fault in found), _next(project, found, dropped)]


def _next(project: LoadedProject, found: Sequence[Fault], dropped: bool) -> str:
    if not found:
        return "everything that lies here is what was written"
    count = f"{len(found):,} bad unit{'s' if len(found) > 1 else ''}"
    if dropped:
        return f"{count} dropped; to make just those again: {repro(project)}"
    return f"{count}; to drop just those: {with_params(project, 'glimpse check --repair')}, then {repro(project)}"
