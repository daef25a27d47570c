"""`dvc repro` that is killed, and two at once: the same command, or what it says to type, leads to the same run."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.registry import STAGES
from pipeline.runner import run_words
from store.document import content_of
from store.errors import StoreError
from store.seal import check_seal
from tests.faults.bench import Tally
from tests.helpers.dvc_project import Project, finished
from tests.helpers.store_files import files_of

REPRO = "dvc repro demo/dvc.yaml"
STATES: dict[str, dict[str, Any]] = {
    "as it was": {},
    "another alpha": {"score": {"alpha": 0.3}},
    "another grid": {"sweep": {"alphas": 4}},
    "another template": {"embed_text": {"template": "a photo of {}"}},
}
"""Values between which the profile goes to and fro: stages score, ablations and report, or sweep and report, run again; the
last makes seven run, and comes once."""
_SAID = re.compile(r"^(?:error|ERROR): |dvc\.lock' validation failed", re.MULTILINE)
_WAIT = "GLIMPSE_WAIT=3600 before the same command"
HALF_WRITTEN = {
    "Unable to read RWLock-file": "rm .dvc/tmp/rwlock",
    "dvc.lock' validation failed": "glimpse check --repair --params demo/params.yaml",
}
"""What DVC says where it was killed while it wrote one of its two files -> what docs/reliability.md says to type."""
_RUNS_CACHE = 2
"""Every other time DVC has forgotten its earlier runs and the stages their parts, so that it runs them instead of copying."""


class Repro:
    """A project of DVC, and what the outputs of each state are when nobody disturbs the run."""

    def __init__(self, folder: Path, states: Sequence[str] = tuple(STATES)) -> None:
        """``states``: where it can go, the one whose rerun is longest last; the first is where it is."""
        self.project, self.states, self.state = finished(folder), states, states[0]
        self.folder, self.file = folder, folder / "demo/params.yaml"
        self.values, self.expected = self.file.read_text(), dict[str, dict[str, str]]()
        before = Path.cwd()
        os.chdir(folder)
        try:
            for state in (*states[1:], states[0]):
                self.go_to(state)
                for stage in STAGES:
                    run_words(stage, ["--profile", "demo/params.yaml"])
                self.expected[state] = outputs_of(self.project)
        finally:
            os.chdir(before)
        self.project.dvc("commit", "--force", "demo/dvc.yaml")

    def go_to(self, state: str) -> None:
        self.file.write_text(self.values)
        if STATES[state]:
            self.project.set(**STATES[state])
        self.state = state

    def other_state(self, rng: random.Random, forget: bool, last: bool = False) -> None:
        """Go to another state; ``forget``: without what DVC and the stages keep of earlier runs of it."""
        light, heavy = self.states[:3], self.states[-1]
        self.go_to(heavy if last else rng.choice([state for state in light if state != self.state]))
        if forget:
            shutil.rmtree(self.folder / ".dvc/cache/runs", ignore_errors=True)
            shutil.rmtree(self.folder / ".work/demo/embed_text@vit", ignore_errors=True)

    def start(self, log: Path) -> subprocess.Popen[bytes]:
        """`dvc repro`, in a process group of its own."""
        environment = {**os.environ, "PYTHONPATH": str(self.folder)}
        environment["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        with log.open("wb") as file:
            return subprocess.Popen(
                REPRO.split(), cwd=self.folder, env=environment, stdout=file, stderr=file, start_new_session=True
            )

    def again(self) -> list[str]:
        """What is wrong after the same command: it is to succeed, or to say what to type, and that is to succeed."""
        log = self.folder / "again.log"
        status, said = self.start(log).wait(600), log.read_text()
        problems = ended_badly(status, said)
        for half, remedy in HALF_WRITTEN.items():
            if status and half in said:
                self.typed(remedy)
                status, said = self.start(log).wait(600), log.read_text()
                problems += ended_badly(status, said)
        if status and _WAIT in said:
            status, said = self.typed(f"GLIMPSE_WAIT=600 {REPRO}")
        if status:
            problems.append(f"then it ended with {status}: {said[-400:]}")
        found, expected = outputs_of(self.project), self.expected[self.state]
        return problems + [
            f"{n} differs" for n in sorted(found.keys() | expected.keys()) if found.get(n) != expected.get(n)
        ]

    def typed(self, line: str) -> tuple[int, str]:
        try:
            return 0, self.project.typed(line)
        except AssertionError as error:
            return 1, str(error)


def ended_badly(status: int, said: str) -> list[str]:
    """A command ends well, or with a message that says why."""
    fine = "Traceback" not in said and (not status or _SAID.search(said))
    return [] if fine else [f"it ended with {status}: {said[-400:]}"]


def outputs_of(project: Project) -> dict[str, str]:
    """Output file -> its digest; of metrics the numbers, of the page whether it is whole: these say when they were made."""
    found = {
        f"data/{name}": hashlib.sha256(content).hexdigest()
        for name, content in files_of(project.folder / "data/demo").items()
    }
    page = project.folder / "data/demo/report.html"
    try:
        check_seal(page)
        found["data/report.html"] = "whole"
    except StoreError as error:
        found["data/report.html"] = str(error)
    metrics, summary = project.folder / "demo/metrics.json", project.folder / "demo/summary.json"
    numbers = json.dumps(content_of(json.loads(metrics.read_bytes()))) if metrics.exists() else ""
    return {**found, "metrics": numbers, "summary": summary.read_text() if summary.exists() else ""}


def repro_faults(
    folder: Path, killed: int, twice: int, rng: random.Random, states: Sequence[str] = tuple(STATES)
) -> list[Tally]:
    """`dvc repro` killed ``killed`` times, all its processes or dvc alone, and ``twice`` two at once."""
    repro = Repro(folder, states)
    tally, both = Tally("dvc repro killed (SIGKILL)"), Tally("two dvc repro at once")
    start = time.monotonic()
    repro.other_state(rng, True)
    problems = repro.again()
    assert not problems, problems
    seconds, log = time.monotonic() - start, folder / "killed.log"
    for number in range(killed):
        repro.other_state(rng, number % _RUNS_CACHE == 0, last=number == killed - 1)
        after, alone = rng.uniform(0.1, 0.9) * seconds, rng.random() < 0.5
        process = repro.start(log)
        time.sleep(after)
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL) if alone else os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        problems = ["a traceback: " + log.read_text()[-400:]] if "Traceback" in log.read_text() else []
        what = f"{repro.state}, {'dvc alone' if alone else 'all processes'} after {after:.1f} s"
        tally.add(problems + repro.again(), what)
    for _ in range(twice):
        repro.other_state(rng, True)
        logs = [folder / f"{n}.log" for n in range(2)]
        ended = [(process.wait(600), log.read_text()) for process, log in [(repro.start(log), log) for log in logs]]
        problems = [what for status, said in ended for what in ended_badly(status, said)]
        both.add(
            problems + repro.again(), repro.state, "repaired" if any(status for status, _ in ended) else "harmless"
        )
    return [tally, both]
