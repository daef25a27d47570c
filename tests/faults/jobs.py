"""What is tried, as jobs for two processes: name of a fault, part of it."""

from __future__ import annotations

import os
import random
import time
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from pipeline.registry import STAGES
from tests.faults.bench import Bench, Tally
from tests.faults.commands import repro_faults
from tests.faults.damage import cached_objects, corruptions, parsed_once, wrong_files
from tests.faults.fuzz import fuzzed
from tests.faults.increments import sequences
from tests.faults.injection import in_child
from tests.faults.interruptions import SECONDS, errors, interrupts, kills, limits
from tests.faults.together import CHANGES, killed_workers, readers_meanwhile, two_at_once
from tests.helpers.dvc_project import finished
from tests.helpers.full_disk import LEVELS, on_a_full_disk, small_disk

KINDS = ("table", "vectors", "document", "page", "picture", "variants", "parts")
Number = Callable[[int], int]
"""How many are tried of what is this many at full length."""
Task = Callable[[Path, str, Number, random.Random], list[Tally]]


def by_weight(light: int, heavy: int) -> Callable[[str], int]:
    """How often something is done to a stage: to one that takes seconds less often."""
    return lambda stage: heavy if stage in SECONDS else light


_KILLS, _ERRORS, _LIMITS = by_weight(28, 12), by_weight(8, 4), by_weight(6, 3)
_SHARES = 6

TASKS: dict[str, tuple[Iterable[str], Task]] = {
    "repro": ([""], lambda folder, _, n, rng: in_dvc(lambda: repro_faults(folder / "repro", n(10), n(2), rng))),
    "dvc": ([""], lambda folder, _, n, rng: in_dvc(lambda: poisoned(folder / "project", n(400), rng))),
    "increments": ([""], lambda folder, _, n, rng: sequences(bench(folder), n(3), 3, rng)),
    "workers": ([""], lambda folder, _, n, rng: killed_workers(bench(folder), n(4), rng)),
    "kills": (STAGES, lambda folder, stage, n, rng: kills(bench(folder), n(_KILLS(stage)), rng, [stage])),
    "interrupts": (STAGES, lambda folder, stage, n, rng: interrupts(bench(folder), n(_KILLS(stage) // 4), [stage])),
    "errors": (STAGES, lambda folder, stage, n, rng: errors(bench(folder), n(_ERRORS(stage)), rng, [stage])),
    "limits": (STAGES, lambda folder, stage, n, rng: limits(bench(folder), n(_LIMITS(stage)), rng, [stage])),
    "together": (STAGES, lambda folder, stage, n, rng: two_at_once(bench(folder), rng, [stage] * n(2))),
    "readers": (CHANGES, lambda folder, stage, n, rng: readers_meanwhile(bench(folder), n(20), [stage])),
    "disks": ([""], lambda folder, _, n, rng: full_disks(folder / "disks")),
    "corruptions": (
        [*map(str, range(_SHARES))],
        lambda folder, part, n, rng: corruptions(bench(folder), n(6000), rng, (int(part), _SHARES)),
    ),
    "inputs": (
        [*map(str, range(_SHARES))],
        lambda folder, part, n, rng: fuzzed(bench(folder), n(20_000), rng, (int(part), _SHARES)),
    ),
}
"""What is tried, those that take longest first: name -> its parts (stages, or shares of the files), and what does one."""
_benches: dict[Path, Bench] = {}


def done(folder: Path, name: str, part: str, share: float, seed: int) -> tuple[float, list[dict[str, Any]]]:
    """Do one job in this process; its seconds, its lines. One that breaks off is a line with what it said."""
    start, rng = time.monotonic(), random.Random(f"{seed} {name} {part}")
    try:
        found = TASKS[name][1](folder, part, lambda full: max(1, round(full * share)), rng)
    except Exception:
        found = [Tally(f"{name} {part}: broke off", tried=1, lost=1, notes=[traceback.format_exc()])]
    return time.monotonic() - start, [tally.line() for tally in found]


def bench(folder: Path) -> Bench:
    """This process's own run to do harm to, made when the first job needs it."""
    if folder not in _benches:
        _benches[folder] = Bench(folder / f"bench {os.getpid()}")
    return _benches[folder]


def full_disks(folder: Path) -> list[Tally]:
    """Every kind of output at ever more room: on a small disk where one may be mounted, and under a limit of file size."""
    found = []
    for how in ("full", "limit"):
        tally = Tally({"full": "full disk (tmpfs)", "limit": "limit on the size of files"}[how])
        with small_disk(folder / how) as mounted:
            if how == "limit" or mounted:
                failed = on_a_full_disk(how, folder / how, dict.fromkeys(KINDS))  # an AssertionError where any was lost
                tally.tried, tally.repaired = LEVELS * len(KINDS), sum(failed.values())
                tally.harmless = tally.tried - tally.repaired
        found.append(tally)
    return found


def poisoned(folder: Path, total: int, rng: random.Random) -> list[Tally]:
    """What lies in a project of DVC and in its cache."""
    project = finished(folder)
    with parsed_once():
        return [cached_objects(project, total, rng), wrong_files(project)]


def in_dvc(task: Callable[[], list[Tally]]) -> list[Tally]:
    """Do a task in a child process, since the libraries start threads."""
    status, result, said = in_child(lambda: [tally.line() for tally in task()], 1500)
    assert not status, said
    return [Tally(**line) for line in result]
