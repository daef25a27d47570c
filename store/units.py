"""Units of work, computed in this or another process, and the plain loop that runs them in sequence."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from store.work import Item, part_name, skipped_of, write_part


@dataclass(frozen=True)
class Result:
    """One input's result: an item for each kind, what was degenerate, and whether it is transient.

    A ``transient`` result stands in for one that cannot be computed at present (its file is missing): it is used for this
    run's output and never stored in the work folder, so the next run tries again.
    """

    items: dict[str, Item]
    skipped: list[str] = field(default_factory=list)
    transient: bool = False


Compute = Callable[[Sequence[Any], tuple[str, ...]], list[Result]]
"""(inputs of a unit, kinds to compute) -> one result for each input."""
Load = Callable[[str], Compute]
"""Builds the models on a device. A module's function, or a partial of one, so that it can be sent to another process."""


@dataclass(frozen=True)
class Unit:
    """One task: its inputs (ids, not pixels) and, for each kind to compute, their keys and the folder of parts."""

    inputs: list[Any]
    keys: dict[str, list[str]]
    folders: dict[str, Path]


@dataclass(frozen=True)
class Done:
    """A finished unit: for each kind the part it wrote (None for none), the keys in it, and what was degenerate.

    ``stand_ins``: (kind, key, item) of each transient result; ``transient``: the reasons. ``seconds``: by step.
    """

    unit: Unit
    parts: dict[str, str | None]
    keys: dict[str, list[str]]
    skipped: list[str]
    stand_ins: list[tuple[str, str, Item]]
    seconds: dict[str, float]
    transient: list[str] = field(default_factory=list)


def finish(unit: Unit, compute: Compute) -> Done:
    """Compute a unit and write its parts."""
    start = time.perf_counter()
    results = compute(unit.inputs, tuple(unit.keys))
    if len(results) != len(unit.inputs):
        raise RuntimeError(f"expected {len(unit.inputs)} results of a unit, got {len(results)}")
    computed = time.perf_counter()
    parts: dict[str, str | None] = {}
    kept = [position for position, result in enumerate(results) if not result.transient]
    skipped = [reason for p in kept for reason in results[p].skipped]
    for kind, keys in unit.keys.items():
        items = [results[p].items[kind] for p in kept]
        parts[kind] = write_part(unit.folders[kind], [keys[p] for p in kept], items, skipped) if items else None
    return Done(
        unit,
        parts,
        keys={kind: [keys[p] for p in kept] for kind, keys in unit.keys.items()},
        skipped=skipped,
        stand_ins=[
            (kind, keys[p], result.items[kind])
            for kind, keys in unit.keys.items()
            for p, result in enumerate(results)
            if result.transient
        ],
        seconds={"compute": computed - start, "write parts": time.perf_counter() - computed},
        transient=[reason for result in results if result.transient for reason in result.skipped],
    )


def recovered(unit: Unit) -> Done | None:
    """A unit whose parts are complete although its worker died before it reported them; None if a part is absent."""
    reasons = [skipped_of(unit.folders[kind], keys) for kind, keys in unit.keys.items()]
    if any(skipped is None for skipped in reasons):
        return None
    parts: dict[str, str | None] = {kind: part_name(keys) for kind, keys in unit.keys.items()}
    return Done(unit, parts, unit.keys, reasons[0] or [], [], {"compute": 0.0})


def in_process(load: Load, units: Sequence[Unit], device: str) -> Iterator[Done]:
    """Run units in sequence in this process."""
    start = time.perf_counter()
    compute = load(device)
    loading = {"load models": time.perf_counter() - start}
    for unit in units:
        done = finish(unit, compute)
        yield replace(done, seconds=loading | done.seconds)
        loading = {}
