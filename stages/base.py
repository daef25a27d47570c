"""What every stage shares: typed parameters, paths, the context of a run and the summary it ends with.

A stage is a module with ``Params`` (all that changes its result), ``Paths`` (its inputs and outputs) and
``run(params, paths, context) -> Summary``. Heavy libraries are imported inside the functions that need them, so that
parameters can be checked, and a run with nothing to compute can end, without loading torch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict

from store.work import Item, Parts

T = TypeVar("T")


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, list | tuple | set) else [value]


Listed = Annotated[list[T], BeforeValidator(_listed)]
"""A list that may be given as one bare value."""


class Params(BaseModel):
    """Base of a stage's parameters: unknown keys are errors, values cannot be changed."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    def config(self) -> dict[str, Any]:
        """The parameters as JSON-able values, for fingerprints."""
        return self.model_dump(mode="json")


class Paths(BaseModel):
    """Base of a stage's inputs and outputs; ``outputs`` names the fields that the stage writes."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    outputs: ClassVar[tuple[str, ...]]


@dataclass
class Summary:
    """What a stage did: rows by name, every row that was skipped or is degenerate with its reason, the folders of parts.

    ``warnings`` are about the whole, not a row: a data set of another size than published, a file that covers less.
    ``peak_bytes``: the most memory that the process ever held, told by whoever runs the stage; 0: not told.
    """

    read: dict[str, int] = field(default_factory=dict)
    computed: dict[str, int] = field(default_factory=dict)
    reused: dict[str, int] = field(default_factory=dict)
    wrote: dict[str, int] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    parts: list[str] = field(default_factory=list)
    peak_bytes: int = 0

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Add the seconds of a block under ``name``."""
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


def _silent(items: Sequence[Any], label: str) -> Iterable[Any]:
    return items


@dataclass(frozen=True)
class Context:
    """How a stage runs; nothing here changes what it computes.

    Attributes:
        work: the folder for this profile's parts.
        device: torch device.
        batch: rows (masks, crops, strings) per forward pass.
        unit: inputs (images, strings) per part: what a kill can lose.
        track: wraps a sequence to show progress under a label.
    """

    work: Path
    device: str = "cpu"
    batch: int = 64
    unit: int = 16
    track: Callable[[Sequence[Any], str], Iterable[Any]] = _silent


@dataclass(frozen=True)
class Result:
    """One input's result: an item for each kind, what was degenerate, and whether it is worth remembering.

    ``passing`` marks what stands in for a result that could not be had now (a file that is not there): it is used for
    this run's output and never becomes part of the work folder, so the next run tries again.
    """

    items: dict[str, Item]
    skipped: list[str] = field(default_factory=list)
    passing: bool = False


class Results:
    """All results of a run by kind and key: those of the parts, and this run's stand-ins."""

    def __init__(self, kinds: dict[str, Parts]) -> None:
        self._kinds = kinds
        self._passing: dict[tuple[str, str], Item] = {}

    @property
    def kinds(self) -> list[str]:
        return list(self._kinds)

    def get(self, kind: str, key: str) -> Item:
        """The item of one input."""
        if key not in self._kinds[kind] and (kind, key) in self._passing:
            return self._passing[kind, key]
        return self._kinds[kind].get(key)

    def stand_in(self, kind: str, key: str, item: Item) -> None:
        """Use ``item`` for input ``key`` in this run only."""
        self._passing[kind, key] = item


def compute_missing(
    kinds: dict[str, Parts],
    keys: Mapping[str, Sequence[str]],
    load: Callable[[], Callable[[Sequence[int], tuple[str, ...]], list[Result]]],
    context: Context,
    summary: Summary,
    what: str,
    unit: int | None = None,
) -> Results:
    """Compute, unit by unit, what no part holds yet.

    Args:
        kinds: kind of result -> its parts.
        keys: kind -> key of each input: what its result depends on. All kinds have the same inputs, in the same order;
            inputs with equal keys are computed once.
        load: builds the models and returns ``compute(positions, kinds) -> one Result per position``; called only when
            something is missing.
        what: the name of the inputs in the progress bar and the summary.
        unit: inputs per part, when it is not the context's.

    Returns:
        What to assemble the output from.
    """
    known = Results(kinds)
    summary.parts = [str(parts.folder) for parts in kinds.values()]
    wanted: dict[int, tuple[str, ...]] = {}
    for kind, parts in kinds.items():
        for position in parts.missing(keys[kind]):
            wanted[position] = (*wanted.get(position, ()), kind)
    distinct = len(set(zip(*(keys[kind] for kind in kinds), strict=True)))
    summary.reused[what] = max(0, distinct - len(wanted))
    summary.computed[what] = len(wanted)
    if not wanted:
        return known
    with summary.timed("load models"):
        compute = load()
    for positions, missing in context.track(_units(wanted, unit or context.unit), what):
        start = time.perf_counter()
        results = compute(positions, missing)
        seconds = time.perf_counter() - start
        if len(results) != len(positions):
            raise RuntimeError(f"{what}: expected {len(positions)} results of a unit, got {len(results)}")
        with summary.timed("write parts"):
            for kind in missing:
                done = []
                for position, result in zip(positions, results, strict=True):
                    key = keys[kind][position]
                    if result.passing:
                        known.stand_in(kind, key, result.items[kind])
                    else:
                        done.append((key, result))
                skipped = [reason for _, result in done for reason in result.skipped]
                kinds[kind].append([key for key, _ in done], [r.items[kind] for _, r in done], seconds, skipped)
        summary.seconds["compute"] = summary.seconds.get("compute", 0.0) + seconds

    return known


def _units(wanted: dict[int, tuple[str, ...]], size: int) -> list[tuple[list[int], tuple[str, ...]]]:
    """Positions in order, cut into runs of at most ``size`` that miss the same kinds."""
    units: list[tuple[list[int], tuple[str, ...]]] = []
    for position in sorted(wanted):
        if units and units[-1][1] == wanted[position] and len(units[-1][0]) < size:
            units[-1][0].append(position)
        else:
            units.append(([position], wanted[position]))
    return units
