"""All faults at length: ``python -m tests.faults`` writes benchmarks/faults.json and the table in docs/reliability.md.

Two processes work, each with a run of its own to do harm to. ``--share 0.02`` does a fiftieth of everything, to try it.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

from tests.faults.bench import Tally
from tests.faults.jobs import TASKS, done
from tests.helpers.profile import ROOT

RESULTS, PAGE = ROOT / "benchmarks/faults.json", ROOT / "docs/reliability.md"
BEGIN, END = "<!-- begin of the table -->", "<!-- end of the table -->"
PROCESSES = 2


def main() -> None:
    """Try everything; exit status 1 where anything was lost or undetected."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--share", type=float, default=1.0, help="of the full length; below 1 nothing is written")
    parser.add_argument("--only", nargs="*", default=[], choices=list(TASKS), help="just their lines")
    given = parser.parse_args()
    start, tallies = time.monotonic(), dict[str, Tally]()
    jobs = [
        (name, part) for name, (parts, _) in TASKS.items() if not given.only or name in given.only for part in parts
    ]
    with tempfile.TemporaryDirectory() as folder:
        for tally in results(Path(folder), jobs, given.share, given.seed):
            merge(tallies, tally)
    seconds = time.monotonic() - start
    print(f"{sum(t.tried for t in tallies.values()):,} faults in {seconds:.0f} s")
    if given.share >= 1:
        write(
            tallies,
            f"`make faults`, seed {given.seed}" if not given.only else " ".join(given.only),
            seconds,
            bool(given.only),
        )
    if any(tally.lost or tally.undetected for tally in tallies.values()):
        sys.exit(1)


def results(folder: Path, jobs: list[tuple[str, str]], share: float, seed: int) -> Iterator[Tally]:
    """What came of each job, in their order; printed as soon as one is done."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(PROCESSES, mp_context=context) as pool:
        started = {pool.submit(done, folder, *job, share, seed): job for job in jobs}
        for future in as_completed(started):
            seconds, lines = future.result()
            print(f"{' '.join(started[future])}, seed {seed}: {seconds:.0f} s", flush=True)
            for line in lines:
                print(json.dumps(line), flush=True)
    for future in started:
        yield from (Tally(**line) for line in future.result()[1])


def merge(tallies: dict[str, Tally], other: Tally) -> None:
    """Add what came of one fault to what came of it before."""
    tally = tallies.setdefault(other.fault, Tally(other.fault))
    for name in ("tried", "lost", "undetected", "repaired", "harmless", "notes"):
        setattr(tally, name, getattr(tally, name) + getattr(other, name))


def write(tallies: dict[str, Tally], what: str, seconds: float, some: bool) -> None:
    """The numbers as JSON, and the table of the page about them; ``some``: their lines replace those of an earlier run."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    table, _, after = rest.partition(END)
    of_children = resource.getrusage(resource.RUSAGE_CHILDREN)
    busy = of_children.ru_utime + of_children.ru_stime
    said = f"{what}: {seconds / 60:.0f} minutes, {busy / 60:.0f} of processor time, by {PROCESSES} processes."
    if some:
        tallies = {line["fault"]: Tally(**line) for line in json.loads(RESULTS.read_text())} | tallies
        said = f"{table.strip().splitlines()[0]} Then again, after a change, {said}"
    RESULTS.write_text(json.dumps([tally.line() for tally in tallies.values()], indent=1) + "\n")
    lines = ["| fault | tried | lost | undetected | repaired | harmless |", "|---|---|---|---|---|---|"]
    lines += [
        f"| {t.fault} | {t.tried:,} | {t.lost} | {t.undetected} | {t.repaired:,} | {t.harmless:,} |"
        for t in tallies.values()
    ]
    PAGE.write_text(f"{before}{BEGIN}\n{said}\n\n" + "\n".join(lines) + f"\n{END}{after}")


if __name__ == "__main__":
    main()
