"""Several processes at one run: two of one stage, readers while their file is replaced, dask workers that are killed."""

from __future__ import annotations

import hashlib
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.registry import STAGES
from store.errors import GlimpseError
from tests.faults.bench import Bench, Tally
from tests.faults.damage import content_of_output
from tests.faults.injection import Child, in_child
from tests.faults.interruptions import ended_badly
from tests.helpers.full_disk import glimpse
from tests.helpers.profile import ROOT

CHANGES: dict[str, dict[str, Any]] = {
    "index": {"index": {"datasets": {"refshapes": {"split_by": "synth", "splits": ["val"]}}}},
    "overlap": {},
    "embed_text": {"embed_text": {"template": "a photo of {}"}},
    "score": {"score": {"alpha": 0.3}},
    "sweep": {"sweep": {"alphas": 4, "betas": 3}},
}
"""Stage whose outputs are read while it writes -> another content for them: sections of the params file."""
WITH_WORKERS = ("embed_masks", "embed_text", "parse", "heat")
_REPLACED = "replaced it while it was read; run the same command again"
_BUSY = "another process writes here"


def two_at_once(bench: Bench, rng: random.Random, stages: Sequence[str] = tuple(STAGES)) -> list[Tally]:
    """Two of the same stage: one works, the other says so, or waits where it is told to."""
    tally = Tally("two of a stage at once, every stage")
    for stage in stages:
        wait = rng.choice((0, 60))
        bench.restore(stage if rng.random() < 0.7 else "")
        ended = [child.end(120) for child in [bench.start(stage, wait), bench.start(stage, wait)]]
        problems = [what for each in ended for what in ended_badly(*each, (0,))]
        failed = [result[1] for _, result, _ in ended if result and result[0]]
        problems += [f"it said {said[-200:]}" for said in failed if wait or _BUSY not in said]
        problems += ["none of the two did it"] if len(failed) == len(ended) else []
        problems += [
            f"{name} differs" for name in (*bench.wrong_outputs(stage), *bench.absent(stage), *bench.leftovers())
        ]
        problems += [f"{name} changed, which is not its own" for name in bench.elsewhere(stage)]
        tally.add(problems, f"{stage}, which waits {wait} s", "repaired" if failed else "harmless")
    return [tally]


def readers_meanwhile(bench: Bench, rounds: int, stages: Sequence[str] = tuple(CHANGES)) -> list[Tally]:
    """Outputs are read, and `glimpse metrics` is typed, again and again while they are replaced: the old or the new."""
    tally, stop = Tally("an output read while it is replaced"), bench.folder / "stop"
    for stage in stages:
        bench.restore()
        stop.unlink(missing_ok=True)
        reader = Child(partial(_read_until, bench, stage, stop))
        problems, versions = list[str](), [_versions(bench, stage)]
        for number in range(rounds):
            with bench.changed(CHANGES[stage] if number % 2 == 0 else {}):
                status, result, said = bench.run(stage)
            problems += [] if (status, result and result[0]) == (0, 0) else [f"{status} {result} {said[-200:]}"]
            versions.append(_versions(bench, stage))
        stop.touch()
        status, found, said = reader.end(120)
        if found is None:
            found = {"reads": 0, "again": 0, "errors": [f"the reader ended with {status}: {said[-300:]}"], "seen": []}
        known = [list(each) for version in versions for each in version.items()]
        problems += found["errors"] + [
            f"{name} was read as nobody wrote it" for name, _ in (e for e in found["seen"] if e not in known)
        ]
        tally.tried += found["reads"]
        tally.repaired += found["again"]
        tally.lost += len(problems)
        tally.notes += [f"{stage}: {problem}" for problem in problems]
    tally.harmless = tally.tried - tally.lost - tally.repaired
    bench.restore()
    return [tally]


def _read(bench: Bench, stage: str) -> dict[str, str]:
    """Output -> digest of what a reader gets of it."""
    files = {name: path for name, path in bench.outputs(stage).items() if not name.endswith("_plot")}
    return {n: hashlib.sha256(repr(content_of_output(n, path)).encode()).hexdigest() for n, path in files.items()}


def _versions(bench: Bench, stage: str) -> dict[str, str]:
    """``_read`` in a child: it starts threads."""
    status, found, said = in_child(partial(_read, bench, stage))
    assert not status, said
    return dict(found)


def _read_until(bench: Bench, stage: str, stop: Path) -> dict[str, Any]:
    """Read until there is a file ``stop``: number of reads, of those told to read again, errors, distinct (output,
    digest) pairs."""
    reads, again, errors, seen = 0, 0, list[str](), set[tuple[str, str]]()
    words = ["metrics", "--params", str(bench.unchanged)]
    while not stop.exists():
        try:
            seen |= _read(bench, stage).items()
        except (GlimpseError, OSError) as error:
            again += _REPLACED in str(error)
            errors += [] if _REPLACED in str(error) else [f"{type(error).__name__}: {error}"[:300]]
        reads += 1
        if stage == "score" and reads % 5 == 0:
            status, said = glimpse(words)
            errors += [said[-300:]] if status else []
            reads += 1
    return {"reads": reads, "again": again, "errors": errors, "seen": sorted(seen)}


def killed_workers(bench: Bench, total: int, rng: random.Random) -> list[Tally]:
    """One of two dask workers of a stage is killed: the run ends well, or with a message and then well."""
    tally = Tally("a dask worker killed (SIGKILL)")
    environment = {**os.environ, "GLIMPSE_WORKERS": "2", "GLIMPSE_UNIT": "1", "PYTHONPATH": str(ROOT)}
    for number in range(total):
        stage = WITH_WORKERS[number % len(WITH_WORKERS)]
        bench.restore(stage)
        command = [sys.executable, "-m", "pipeline", *bench.words(stage)]
        after = rng.uniform(0, 3)
        with subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as run:
            killed = _kill_a_worker(run, after, rng)
            said = run.communicate(timeout=300)[0]
        wrong = bench.wrong_outputs(stage)
        if run.returncode:
            wrong += [] if re.search(r"^error: ", said, re.MULTILINE) and "Traceback" not in said else [said[-400:]]
            again = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
            wrong += [again.stderr[-400:]] if again.returncode else []
        wrong += [*bench.wrong_outputs(stage), *bench.absent(stage), *bench.leftovers(), *bench.elsewhere(stage)]
        tally.add(wrong, f"{stage}, killed {after:.2f} s after it started", "repaired" if killed else "harmless")
    return [tally]


def _kill_a_worker(run: subprocess.Popen[str], after: float, rng: random.Random) -> bool:
    """Kill one of the processes that ``run`` has started as workers, ``after`` seconds later; False where it has ended."""
    workers: list[int] = []
    while run.poll() is None and len(workers) < 2:
        time.sleep(0.05)
        workers = [child for child in children(run.pid) if "spawn_main" in _command(child)]
    time.sleep(after)
    if run.poll() is not None:
        return False
    with suppress(ProcessLookupError):
        os.kill(rng.choice(workers), signal.SIGKILL)
    return True


def children(process: int) -> list[int]:
    """The processes that ``process`` has started and that still run."""
    tasks = Path(f"/proc/{process}/task")
    with suppress(OSError):
        return [int(child) for task in tasks.iterdir() for child in (task / "children").read_text().split()]
    return []


def _command(process: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{process}/cmdline").read_text().replace("\0", " ")
    return ""
