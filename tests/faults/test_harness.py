"""The short form of `make faults`: a few of each kind, on one tiny run; and that the harness sees what it looks for."""

from __future__ import annotations

import gc
import random
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from pipeline.registry import STAGES, stage_module
from stages.contract import Context, Summary
from store import publish
from store.errors import StoreError
from tests.faults import damage, fuzz, increments, interruptions, jobs, together
from tests.faults.__main__ import merge
from tests.faults.bench import Bench, Tally
from tests.faults.injection import Operations, failing, in_child, kill
from tests.faults.mutation import mutated, other_structure
from tests.helpers.store_files import write

SHORT = ("index", "overlap", "score")


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    threads = torch.get_num_threads()
    yield Bench(tmp_path_factory.mktemp("bench"))
    gc.unfreeze()
    torch.set_num_threads(threads)


def clean(tallies: list[Tally]) -> int:
    """How many were tried; nothing may be lost or unseen."""
    assert [tally.line() for tally in tallies if tally.lost or tally.undetected] == []
    return sum(tally.tried for tally in tallies)


def test_stages_that_are_killed(bench: Bench) -> None:
    assert clean(interruptions.kills(bench, 2, random.Random(1), SHORT)) == 9


def test_stages_that_are_interrupted(bench: Bench) -> None:
    """Also in a process that ignores Ctrl-C, as a shell's background job does: each try must reach the stage."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        (tally,) = interruptions.interrupts(bench, 1, SHORT)
    finally:
        signal.signal(signal.SIGINT, before)
    assert (clean([tally]), tally.repaired) == (3, 3)


def test_writes_that_fail(bench: Bench) -> None:
    assert clean(interruptions.errors(bench, 3, random.Random(2), SHORT)) == 9


def test_few_files_and_little_memory(bench: Bench) -> None:
    assert clean(interruptions.limits(bench, 2, random.Random(2), SHORT)) == 12


def test_two_of_a_stage_at_once(bench: Bench) -> None:
    assert clean(together.two_at_once(bench, random.Random(2), SHORT)) == 3


def test_readers_while_an_output_is_replaced(bench: Bench) -> None:
    assert clean(together.readers_meanwhile(bench, 2, ("score",))) > 4


def test_what_is_kept_wrongly_is_caught(bench: Bench) -> None:
    """A stage that keeps an output that is there, whatever it was made from: the run in place is not the one from scratch."""
    stages, fewer = ("index", "propose", "overlap"), {"index": {"datasets": increments._datasets(random.Random(0))}}

    def lazy(params: Any, paths: Any, context: Context) -> Summary:
        return Summary() if paths.overlap.exists() else run(params, paths, context)

    run = stage_module("overlap").run
    with mock.patch("tests.faults.increments.changed", return_value=("fewer images", fewer)):
        (right,) = increments.sequences(bench, 1, 1, random.Random(0), stages)
        with mock.patch("stages.overlap.run", lazy):
            (wrong,) = increments.sequences(bench, 1, 1, random.Random(0), stages)
    assert (right.lost, wrong.lost) == (0, 1)
    assert wrong.notes == ["fewer images: data/overlap.h5 differs"]


def test_corrupted_files(bench: Bench) -> None:
    assert clean(damage.corruptions(bench, 160, random.Random(3), (1, 5))) >= 20


def test_mutated_inputs(bench: Bench) -> None:
    assert clean(fuzz.fuzzed(bench, 240, random.Random(4))) >= 240


def test_a_write_in_place_is_caught(bench: Bench) -> None:
    """The harness must fail for a writer that is not careful: it writes to the output itself."""

    def careless(path: Path, content: bytes | str) -> None:
        path.write_bytes(content.encode() if isinstance(content, str) else bytes(content))

    tally = Tally("careless")

    def before() -> None:
        mock.patch("store.document.write_file", lambda path, text: (careless(path, text[:9]), kill(""))).start()

    interruptions.interrupted(bench, tally, "sweep", before, "", False, (-9,))
    assert tally.lost == 1
    assert "grid.json" in tally.notes[0]


def test_a_reader_that_does_not_compare_is_caught(bench: Bench) -> None:
    """Without the digest of a document a changed number goes unseen."""
    bench.restore()
    with mock.patch("store.document.fingerprint", lambda value: value["run"].get("digest", "x")):
        file = bench.live / "data/grid.json"
        with mock.patch("store.document._without_digest", lambda document: document):
            came = damage._corrupted(bench, file, range(30))
    assert "undetected" in came
    assert "undetected" not in damage._corrupted(bench, file, range(30))


def test_a_reader_that_crashes_is_caught(bench: Bench, tmp_path: Path) -> None:
    def crash(path: Path) -> None:
        if path.read_bytes() != b"good":
            raise ValueError("not one of ours")

    (tmp_path / "x").write_bytes(b"good")
    reader = fuzz.Reader("crashing", tmp_path / "x", crash)
    with mock.patch("tests.faults.fuzz.readers", return_value=[reader]):
        (bench.folder / "fuzz").mkdir(exist_ok=True)
        (tally,) = fuzz.fuzzed(bench, 5, random.Random(0))
    assert (tally.tried, tally.lost) == (5, 5)
    assert tally.notes[0].endswith("ValueError: not one of ours")


@pytest.mark.parametrize("act", [kill, failing(28)])
def test_every_operation_of_a_write_is_counted(tmp_path: Path, act: Callable[[str], None]) -> None:
    """At each of them the old table stays, as long as the new one is not there."""
    path = tmp_path / "live/t.h5"
    write(path)
    old = path.read_bytes()

    def task(at: int) -> object:
        operations = Operations(tmp_path / "live", at, act)
        try:
            write(path, x="new")
        except StoreError as error:
            return str(error)
        return operations.count

    total = int(in_child(lambda: task(0))[1])
    new = path.read_bytes()
    assert total > 20
    assert new != old
    for at in range(1, total, 3):
        path.write_bytes(old)
        status, result, _ = in_child(lambda at=at: task(at))  # type: ignore[misc]
        assert status == (-9 if act is kill else 0)
        assert path.read_bytes() in (old, new)
        assert act is kill or isinstance(result, int) or "No space left on device" in result
    publish.remove_leftovers(path.parent)


def test_mutations_repeat_and_change() -> None:
    content = bytes(range(200))
    seen = {mutated(content, random.Random(seed)) for seed in range(200)}
    assert content not in seen
    assert len(seen) > 150
    assert mutated(content, random.Random(5)) == mutated(content, random.Random(5))
    value = {"a": [1, {"b": None}], "c": "d"}
    others = [other_structure(value, random.Random(seed)) for seed in range(60)]
    assert value == {"a": [1, {"b": None}], "c": "d"}
    assert sum(other != value for other in others) > 50


def test_what_came_of_the_parts_is_added_up() -> None:
    """One line a fault; the parts of the stages are all of them, those of files and readers all shares of them."""
    tallies: dict[str, Tally] = {}
    for tally in (Tally("a", 3, 1, 0, 2, 0, ["x"]), Tally("b", 1), Tally("a", 4, 0, 1, 1, 2, ["y"])):
        merge(tallies, tally)
    assert list(tallies.values()) == [Tally("a", 7, 1, 1, 3, 2, ["x", "y"]), Tally("b", 1)]
    for name in ("kills", "interrupts", "errors", "limits", "together"):
        assert list(jobs.TASKS[name][0]) == list(STAGES)


def test_a_job_that_breaks_off_is_lost(tmp_path: Path) -> None:
    with mock.patch.dict(jobs.TASKS, {"kills": (["x"], lambda *_: 1 / 0)}):
        _, (line,) = jobs.done(tmp_path, "kills", "x", 1.0, 0)
    assert (line["tried"], line["lost"]) == (1, 1)
    assert line["notes"][0].endswith("ZeroDivisionError: division by zero\n")
