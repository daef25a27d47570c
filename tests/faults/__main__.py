"""All faults at length: ``python -m tests.faults`` writes benchmarks/faults.json and the table in docs/reliability.md.

At full length at most half an hour on two cores. ``--share 0.02`` does a fiftieth of everything, to try it.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.faults.bench import Bench, Tally
from tests.faults.damage import cached_objects, corruptions, wrong_files
from tests.faults.fuzz import fuzzed
from tests.faults.injection import in_child
from tests.faults.interruptions import errors, kills
from tests.helpers.dvc_project import Project, finished
from tests.helpers.full_disk import LEVELS, on_a_full_disk, small_disk
from tests.helpers.profile import ROOT

RESULTS, PAGE = ROOT / "benchmarks/faults.json", ROOT / "docs/reliability.md"
KILLS, ERRORS, CORRUPTIONS, CACHED, INPUTS = 20, 5, 6000, 400, 20_000
"""At full length: kills and errors of each stage, corruptions of files and of cached objects, mutated inputs."""
KINDS = ("table", "vectors", "document", "page", "picture", "variants", "parts")
BEGIN, END = "<!-- begin of the table -->", "<!-- end of the table -->"


def main() -> None:
    """Try everything; exit status 1 where anything was lost or undetected."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--share", type=float, default=1.0, help="of the full length; below 1 nothing is written")
    parser.add_argument(
        "--only", nargs="*", default=[], choices=["kills", "errors", "disks", "corruptions", "dvc", "inputs"]
    )
    given = parser.parse_args()
    start, tallies = time.monotonic(), list[Tally]()
    with tempfile.TemporaryDirectory() as folder:
        for name, task in tasks(Path(folder), given.share).items():
            if given.only and name not in given.only:
                continue
            print(f"{name}, seed {given.seed}", flush=True)
            for tally in task(random.Random(given.seed)):
                tallies.append(tally)
                print(json.dumps(tally.line()), flush=True)
    seconds = time.monotonic() - start
    print(f"{sum(t.tried for t in tallies):,} faults in {seconds:.0f} s")
    if given.share >= 1 and not given.only:
        write(tallies, given.seed, seconds)
    if any(tally.lost or tally.undetected for tally in tallies):
        sys.exit(1)


def tasks(folder: Path, share: float) -> dict[str, Callable[[random.Random], list[Tally]]]:
    """What is tried, by name; a run to do harm to is made when the first of them needs it."""
    made: dict[str, Bench] = {}

    def bench() -> Bench:
        if "bench" not in made:
            made["bench"] = Bench(folder / "bench")
        return made["bench"]

    def number(full: int) -> int:
        return max(1, round(full * share))

    return {
        "kills": lambda rng: kills(bench(), number(KILLS), rng),
        "errors": lambda rng: errors(bench(), number(ERRORS), rng),
        "disks": lambda rng: full_disks(folder / "disks"),
        "corruptions": lambda rng: corruptions(bench(), number(CORRUPTIONS), rng),
        "inputs": lambda rng: fuzzed(bench(), number(INPUTS), rng),
        "dvc": lambda rng: in_dvc(folder / "project", number(CACHED), rng),
    }


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


def in_dvc(folder: Path, total: int, rng: random.Random) -> list[Tally]:
    """What lies in a project of DVC, in a child process, since the libraries start threads."""
    seed = rng.randrange(2**32)

    def task() -> Any:
        project: Project = finished(folder)
        both = (cached_objects(project, total, random.Random(seed)), wrong_files(project))
        return [tally.line() for tally in both]

    status, result, said = in_child(task, 1500)
    assert not status, said
    return [Tally(**line) for line in result]


def write(tallies: list[Tally], seed: int, seconds: float) -> None:
    """The numbers as JSON, and the table of the page about them."""
    RESULTS.write_text(json.dumps([tally.line() for tally in tallies], indent=1) + "\n")
    lines = ["| fault | tried | lost | undetected | repaired | harmless |", "|---|---|---|---|---|---|"]
    lines += [
        f"| {t.fault} | {t.tried:,} | {t.lost} | {t.undetected} | {t.repaired:,} | {t.harmless:,} |" for t in tallies
    ]
    before, _, rest = PAGE.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    said = f"`make faults`, seed {seed}, {seconds / 60:.0f} minutes."
    PAGE.write_text(f"{before}{BEGIN}\n{said}\n\n" + "\n".join(lines) + f"\n{END}{after}")


if __name__ == "__main__":
    main()
