"""Stages that are killed, stopped or hindered at an operation: outputs are whole or absent, and the next run goes on."""

from __future__ import annotations

import errno
import json
import random
import resource
import signal
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.registry import STAGES
from tests.faults.bench import Bench, Tally
from tests.faults.injection import Operations, failing, in_child, interrupt, kill
from tests.helpers.full_disk import glimpse

_INTERRUPTED = 128 + signal.SIGINT
"""Exit status of a command that Ctrl-C ended."""
SECONDS = {"embed_masks": 1.0, "embed_text": 1.2, "heat": 2.0, "variants": 1.8, "report": 1.2}
"""How long a first run of a heavy stage takes, about, with all libraries loaded; others: less than half a second."""
ERRORS = ("ENOSPC", "EROFS", "EACCES", "EFBIG", "EIO", "EDQUOT", "EMFILE")


def operations(bench: Bench, stage: str, writes_only: bool = False) -> int:
    """How many file operations a first run of ``stage`` does."""

    def task() -> Any:
        counted = Operations(bench.live, 0, kill, writes_only)
        done = glimpse(bench.words(stage))
        return [counted.count, *done]

    bench.restore(stage)
    status, result, said = in_child(task)
    assert status == 0, said
    assert result[1] == 0, result
    return int(result[0])


def spread(total: int, wanted: int) -> list[int]:
    """``wanted`` numbers of 1 to ``total``, evenly apart; all of them where there are fewer."""
    if wanted >= total:
        return list(range(1, total + 1))
    return sorted({1 + (2 * i + 1) * total // (2 * wanted) for i in range(wanted)})


def interrupted(
    bench: Bench,
    tally: Tally,
    stage: str,
    before: Callable[[], Any] | None,
    what: str,
    fresh: bool,
    allowed: Sequence[int],
    after: float | None = None,
) -> None:
    """One try: do harm to a run of ``stage``, look at what it leaves, run it again, and compare."""
    bench.restore(stage if fresh else "")
    limits = {} if after is None else {"after": after}
    status, result, said = bench.run(stage, before, **limits)
    held = _parts(bench)
    problems = [f"output {name}" for name in bench.wrong_outputs(stage)] + ended_badly(status, result, said, allowed)
    unharmed = (status, result and result[0]) == (0, 0)
    if not fresh:
        problems += [f"gone: {name}" for name in bench.absent(stage)]
    if unharmed and bench.leftovers():  # it could not clean up, which the next run does
        unharmed = False
    if not unharmed:
        status, result, said = bench.run(stage)
        if status or result[0]:
            problems.append(f"then it ended with {status}, {result}: {said[-200:]}")
    problems += [f"then {name} differs" for name in (*bench.wrong_outputs(stage), *bench.absent(stage))]
    problems += [f"then {name} is left" for name in bench.leftovers()]
    problems += [f"{name} changed, which is not its own" for name in bench.elsewhere(stage)]
    if held - _parts(bench):
        problems.append(f"lines of parts are gone: {held - _parts(bench)}")
    tally.add(problems, f"{stage} {what}", "harmless" if unharmed else "repaired")


def ended_badly(status: int, result: Any, said: str, allowed: Sequence[int]) -> list[str]:
    """What is wrong with the way a stage ended: it may end well, with one message, or by a status that is allowed."""
    text, problems = said + (result[1] if result else ""), []
    if status not in allowed or "Traceback" in text:
        problems.append(f"it ended with {status}: {text[-300:]}")
    begins = "interrupted: " if result and result[0] == _INTERRUPTED else "error: "
    if result and result[0] and not result[1].startswith(begins):
        problems.append(f"it said {result[1][:200]!r}")
    return problems


def _parts(bench: Bench) -> set[str]:
    """The parts that count: of which there is a line, without what a kill left half written."""
    found = set()
    for manifest in (bench.live / "work").rglob("manifest.jsonl"):
        for line in manifest.read_bytes().split(b"\n")[:-1]:
            found.add(f"{manifest.parent}/{json.loads(line)['part']}")
    return found


def kills(bench: Bench, per_stage: int, rng: random.Random, stages: Sequence[str] = tuple(STAGES)) -> list[Tally]:
    """By SIGKILL before the n-th operation, and a quarter as often at a random moment."""
    tallies = [Tally(f"{what}, every stage") for what in ("kill before a file operation", "kill at random")]
    for stage in stages:
        total = operations(bench, stage)
        for number, at in enumerate(spread(total, per_stage)):
            before = _harm(bench, at, kill)
            what = f"killed before operation {at} of {total}"
            interrupted(bench, tallies[0], stage, before, what, number % 3 > 0, (-signal.SIGKILL, 0))
        for _ in range(max(1, per_stage // 4)):
            after = rng.uniform(0.02, SECONDS.get(stage, 0.4))
            interrupted(bench, tallies[1], stage, None, f"killed after {after} s", True, (-signal.SIGKILL, 0), after)
    return tallies


def interrupts(bench: Bench, per_stage: int, stages: Sequence[str] = tuple(STAGES)) -> list[Tally]:
    """By Ctrl-C at an operation."""
    tally = Tally("Ctrl-C, every stage")
    for stage in stages:
        total = operations(bench, stage)
        for at in spread(total, per_stage):
            what = f"interrupted at operation {at} of {total}"
            interrupted(bench, tally, stage, _harm(bench, at, interrupt), what, True, (0,))
    return [tally]


def _harm(bench: Bench, at: int, act: Any, writes_only: bool = False) -> Callable[[], Any]:
    return lambda: Operations(bench.live, at, act, writes_only)


def errors(bench: Bench, per_stage: int, rng: random.Random, stages: Sequence[str] = tuple(STAGES)) -> list[Tally]:
    """An operation that writes fails as on a full, read-only, foreign or failing disk."""
    tallies = {name: Tally(f"{name} at a write, every stage") for name in ERRORS}
    for stage in stages:
        total = operations(bench, stage, writes_only=True)
        first = rng.randrange(len(ERRORS))
        for position, at in enumerate(spread(total, per_stage)):
            name = ERRORS[(position + first) % len(ERRORS)]
            before = _harm(bench, at, failing(getattr(errno, name)), True)
            what = f"{name} at write {at} of {total}"
            interrupted(bench, tallies[name], stage, before, what, position % 2 > 0, (0,))
    return list(tallies.values())


def limits(bench: Bench, per_stage: int, rng: random.Random, stages: Sequence[str] = tuple(STAGES)) -> list[Tally]:
    """Few files may be open (`ulimit -n`), or little memory be had (`ulimit -v`), which may end a stage by a signal."""
    files, memory = Tally("ulimit -n 5 to 24, every stage"), Tally("ulimit -v, every stage")
    died = (0, -signal.SIGABRT, -signal.SIGSEGV, -signal.SIGKILL, -signal.SIGBUS)
    for stage in stages:
        for number in range(per_stage):
            fresh, few = number % 2 == 0, rng.randint(5, 24)
            before = partial(resource.setrlimit, resource.RLIMIT_NOFILE, (few, _hard(resource.RLIMIT_NOFILE)))
            interrupted(bench, files, stage, before, f"with {few} open files", fresh, (0,))
            more = int(2 ** rng.uniform(0, 9.5))
            before = partial(_with_memory, more)
            interrupted(bench, memory, stage, before, f"with {more} MiB more than at the start", fresh, died)
    return [files, memory]


def _with_memory(more: int) -> None:
    """Let this process have ``more`` MiB of addresses than it has."""
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + more * 2**20, _hard(resource.RLIMIT_AS)))


def _hard(limit: int) -> int:
    return resource.getrlimit(limit)[1]
