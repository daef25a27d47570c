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
from typing import Annotated, Any, ClassVar, Protocol, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict

from store.loader import Loader
from store.units import Done, Load, Unit, in_process
from store.work import Item, Parts

T = TypeVar("T")
_TAKEN = 64  # items of a part that is made of a previous output


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
    ``losses``: what could not be used, by state (``store.usable.require_usable``).
    ``transient``: the files that were missing; the stage must be run again (``dvc repro`` does so).
    ``peak_bytes``: the most memory that the process ever held, ``device_peak_bytes``: that its tensors held on a GPU; set
    by the runner, 0 if unknown.
    """

    read: dict[str, int] = field(default_factory=dict)
    computed: dict[str, int] = field(default_factory=dict)
    reused: dict[str, int] = field(default_factory=dict)
    wrote: dict[str, int] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    transient: list[str] = field(default_factory=list)
    losses: list[dict[str, Any]] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    parts: list[str] = field(default_factory=list)
    peak_bytes: int = 0
    device_peak_bytes: int = 0

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Add the seconds of a block under ``name``."""
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


def _silent(items: Sequence[Any], label: str) -> Iterable[Any]:
    return items


class Profile(Protocol):
    """The params file of a run, as stages see it that are about more than their own values."""

    @property
    def encoders(self) -> Sequence[str]:
        """The names of all encoders."""

    def value(self, section: str, name: str) -> Any:
        """The profile's own value."""

    def pair_table(
        self, change: Mapping[str, Mapping[str, Any]], scratch: Path, context: Context, total: Summary
    ) -> Path:
        """The pair table of the profile with ``change`` (section -> values): only what it touches runs, into ``scratch``.

        What was computed and reused is added to ``total``.
        """


@dataclass(frozen=True)
class Context:
    """How a stage runs; nothing here changes what it computes.

    Attributes:
        work: the folder for this profile's parts.
        device: torch device.
        batch: rows (masks, crops, strings) per forward pass; None: see ``stages.device.memory``.
        unit: images per part, what a kill can lose; a stage that takes other inputs has its own number.
        track: wraps a sequence to show progress under a label.
        execute: runs units, in this or other processes, in any order; the results are the same to the byte.
        profile: the params file that the run belongs to, where there is one.
        wait: seconds to wait for another process that writes where this run must.
        identity: which code runs, and when, for outputs that record it: ``version``, ``commit``, ``date``.
    """

    work: Path
    device: str = "cpu"
    batch: int | None = None
    unit: int = 16
    track: Callable[[Sequence[Any], str], Iterable[Any]] = _silent
    execute: Callable[[Load, Sequence[Unit], str], Iterable[Done]] = in_process
    profile: Profile | None = None
    wait: float = 0.0
    identity: Mapping[str, str] = field(default_factory=dict)


class Results:
    """All results of a run by kind and key: those of the parts, and this run's stand-ins."""

    def __init__(self, kinds: dict[str, Parts]) -> None:
        self._kinds = kinds
        self._stand_ins: dict[tuple[str, str], Item] = {}

    @property
    def kinds(self) -> list[str]:
        return list(self._kinds)

    def get(self, kind: str, key: str) -> Item:
        """The item of one input."""
        if key not in self._kinds[kind] and (kind, key) in self._stand_ins:
            return self._stand_ins[kind, key]
        return self._kinds[kind].get(key)

    def kept(self, kind: str, key: str) -> bool:
        """Whether a part holds the item, which is then no stand-in."""
        return key in self._kinds[kind]

    def stand_in(self, kind: str, key: str, item: Item) -> None:
        """Use ``item`` for input ``key`` in this run only."""
        self._stand_ins[kind, key] = item


class Published(Protocol):
    """A previous output of a stage, seen as the parts that it was made of."""

    def item(self, kind: str, key: str) -> Item | None:
        """The item of one input; None where the output does not have it, or has it under another configuration."""


def compute_missing(
    kinds: dict[str, Parts],
    keys: Mapping[str, Sequence[str]],
    inputs: Sequence[Any],
    load: Load,
    context: Context,
    summary: Summary,
    what: str,
    unit: int | None = None,
    reads: Mapping[Path, str] | None = None,
    modules: Sequence[str] = (),
    published: Callable[[], Published | None] | None = None,
) -> Results:
    """Compute, unit by unit, what no part holds yet.

    Args:
        kinds: kind of result -> its parts.
        keys: kind -> key of each input: what its result depends on. All kinds have the same inputs, in the same order;
            inputs with equal keys are computed once.
        inputs: what ``compute`` gets for each input: small, because it may be sent to another process.
        load: called only when something is missing, once in each process that computes, and again where its content changed.
        what: the name of the inputs in the progress bar and the summary.
        unit: inputs per part, when it is not the context's.
        reads: every file that ``load`` reads -> its digest as ``keys`` and ``kinds`` have it: ``Table.digest`` of a table,
            sha256 of any other. A process that finds another file raises an error.
        modules: modules that ``load`` imports by name, in addition to its own module's imports. A process that has
            loaded them before they were edited raises an error.
        published: opens the previous output, which serves for parts that are not in the work folder.

    Returns:
        What to assemble the output from.

    Raises:
        CodeError: a process that computes has loaded other code or libraries.
        StoreError: a file of ``reads`` was replaced meanwhile.
    """
    known = Results(kinds)
    summary.parts = [str(parts.folder) for parts in kinds.values()]
    wanted = _left_to_compute(kinds, keys, published, summary)
    distinct = len(set(zip(*(keys[kind] for kind in kinds), strict=True)))
    summary.reused[what] = max(0, distinct - len(wanted))
    summary.computed[what] = len(wanted)
    if not wanted:
        return known
    units = [
        _unit(positions, missing, inputs, keys, kinds) for positions, missing in _units(wanted, unit or context.unit)
    ]
    loader = Loader.of(load, kinds, reads or {}, modules)
    for _, done in zip(context.track(units, what), context.execute(loader, units, context.device), strict=True):
        _count(done, kinds, known, summary)
    return known


def _left_to_compute(
    kinds: Mapping[str, Parts],
    keys: Mapping[str, Sequence[str]],
    published: Callable[[], Published | None] | None,
    summary: Summary,
) -> dict[int, tuple[str, ...]]:
    """`_wanted`, once the previous output has served for what it holds."""
    wanted = _wanted(kinds, keys)
    if not wanted or published is None:
        return wanted
    with summary.timed("take over"):
        _take_over(kinds, keys, wanted, published())
    return _wanted(kinds, keys)


def _unit(
    positions: Sequence[int],
    missing: Sequence[str],
    inputs: Sequence[Any],
    keys: Mapping[str, Sequence[str]],
    kinds: Mapping[str, Parts],
) -> Unit:
    return Unit(
        [inputs[p] for p in positions],
        {kind: [keys[kind][p] for p in positions] for kind in missing},
        {kind: kinds[kind].folder for kind in missing},
    )


def _wanted(kinds: Mapping[str, Parts], keys: Mapping[str, Sequence[str]]) -> dict[int, tuple[str, ...]]:
    """Position of an input -> the kinds that no part holds of it."""
    wanted: dict[int, tuple[str, ...]] = {}
    for kind, parts in kinds.items():
        for position in parts.missing(keys[kind]):
            wanted[position] = (*wanted.get(position, ()), kind)
    return wanted


def _take_over(
    kinds: Mapping[str, Parts],
    keys: Mapping[str, Sequence[str]],
    wanted: Mapping[int, tuple[str, ...]],
    published: Published | None,
) -> None:
    """Write parts of what a previous output holds."""
    if published is None:
        return
    for kind, parts in kinds.items():
        missing = [keys[kind][position] for position in sorted(wanted) if kind in wanted[position]]
        for start in range(0, len(missing), _TAKEN):
            items = {key: published.item(kind, key) for key in missing[start : start + _TAKEN]}
            found = {key: item for key, item in items.items() if item is not None}
            parts.append(list(found), list(found.values()), 0.0)


def _count(done: Done, kinds: Mapping[str, Parts], known: Results, summary: Summary) -> None:
    """Record a finished unit: its parts, stand-ins, reasons and seconds."""
    for kind, part in done.parts.items():
        if part is not None:
            kinds[kind].record(part, done.keys[kind], done.seconds["compute"], done.skipped)
    summary.transient += done.transient
    for kind, key, item in done.stand_ins:
        known.stand_in(kind, key, item)
    for name, seconds in done.seconds.items():
        summary.seconds[name] = summary.seconds.get(name, 0.0) + seconds


def _units(wanted: dict[int, tuple[str, ...]], size: int) -> list[tuple[list[int], tuple[str, ...]]]:
    """Positions in order, cut into runs of at most ``size`` that miss the same kinds."""
    units: list[tuple[list[int], tuple[str, ...]]] = []
    for position in sorted(wanted):
        if units and units[-1][1] == wanted[position] and len(units[-1][0]) < size:
            units[-1][0].append(position)
        else:
            units.append(([position], wanted[position]))
    return units
