"""The work folder: only what is missing is computed, and a kill loses at most one unit."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages.base import Context, Result, Summary, compute_missing
from store.errors import BusyError, StoreError
from store.work import Item, Parts, locked

ROOT = Path(__file__).resolve().parent.parent
KEYS = [f"image-{i}" for i in range(10)]


def item(key: str, kind: str = "kind") -> Item:
    """A ragged result that only its key and kind decide: rows of two arrays, none for some keys."""
    seed = sum(f"{kind}/{key}".encode())
    rows = np.random.default_rng(seed).normal(size=(seed % 4, 3)).astype(np.float32)
    return {"feature": rows, "text": np.frombuffer(f"{kind} {key} é".encode(), np.uint8)}


def same(got: Item, expected: Item) -> bool:
    return set(got) == set(expected) and all(
        got[n].dtype == expected[n].dtype and np.array_equal(got[n], expected[n]) for n in expected
    )


class Computer:
    """What a stage hands to ``compute_missing``; remembers every call."""

    def __init__(self, keys: Sequence[str]) -> None:
        self.keys = keys
        self.loads = 0
        self.units: list[tuple[list[str], tuple[str, ...]]] = []

    def load(self, device: str) -> Callable[[Sequence[int], tuple[str, ...]], list[Result]]:
        self.loads += 1
        return self.compute

    def compute(self, positions: Sequence[int], kinds: tuple[str, ...]) -> list[Result]:
        keys = [self.keys[p] for p in positions]
        self.units.append((keys, kinds))
        return [
            Result({kind: item(key, kind) for kind in kinds}, [f"{key} is odd"] if key[-1] == "3" else [])
            for key in keys
        ]

    @property
    def computed(self) -> list[str]:
        return [key for keys, _ in self.units for key in keys]


def run(
    work: Path, keys: Sequence[str], kinds: Sequence[str] = ("kind",), unit: int = 3, **config: Any
) -> tuple[Computer, dict[str, Parts], Summary]:
    """One run of a stage: open the parts, compute what they lack, and check that all can be read, in any order."""
    parts = {kind: Parts(work, kind, config) for kind in kinds}
    computer, summary = Computer(keys), Summary()
    compute_missing(
        parts,
        dict.fromkeys(parts, keys),
        range(len(keys)),
        computer.load,
        Context(work=work, unit=unit),
        summary,
        "images",
    )
    for opened in (parts, {kind: Parts(work, kind, config) for kind in kinds}):
        for kind, part in opened.items():
            assert all(same(part.get(key), item(key, kind)) for key in (*keys, *reversed(keys)))
    assert summary.computed["images"] + summary.reused["images"] == len(set(keys))
    assert summary.computed["images"] == len(computer.computed)
    assert computer.loads == bool(computer.units)
    return computer, parts, summary


def part_files(parts: Parts) -> list[Path]:
    return sorted(parts.folder.glob("*.npz"))


def manifest(parts: Parts) -> Path:
    return parts.folder / "manifest.jsonl"


def test_units_in_order_then_nothing(tmp_path: Path) -> None:
    computer, parts, summary = run(tmp_path, KEYS)
    assert [keys for keys, _ in computer.units] == [KEYS[:3], KEYS[3:6], KEYS[6:9], KEYS[9:]]
    assert summary.computed == {"images": 10}
    assert summary.parts == [str(parts["kind"].folder)]
    assert len(part_files(parts["kind"])) == 4
    again, _, summary = run(tmp_path, KEYS)
    assert (again.loads, summary.reused) == (0, {"images": 10})


def test_duplicates_are_computed_once(tmp_path: Path) -> None:
    keys = ["b", "a", "b", "c", "a", "b"]
    computer, _, summary = run(tmp_path, keys, unit=2)
    assert [keys for keys, _ in computer.units] == [["b", "a"], ["c"]]
    assert (summary.computed, summary.reused) == ({"images": 3}, {"images": 0})


def test_growth_computes_only_the_new_ones(tmp_path: Path) -> None:
    run(tmp_path, KEYS[:4])
    grown = ["new-1", *KEYS[2:6], "new-2", KEYS[0]]
    computer, parts, summary = run(tmp_path, grown)
    assert computer.computed == ["new-1", KEYS[4], KEYS[5], "new-2"]
    assert summary.reused == {"images": 3}
    assert [bytes(parts["kind"].get(key)["text"]).decode().split()[1] for key in grown] == grown
    assert run(tmp_path, KEYS[:4])[0].loads == 0  # what is no longer asked for stays


def test_no_inputs(tmp_path: Path) -> None:
    computer, _, summary = run(tmp_path, [])
    assert (computer.loads, summary.computed, summary.reused) == (0, {"images": 0}, {"images": 0})


def test_units_of_another_size_find_the_same_parts(tmp_path: Path) -> None:
    run(tmp_path, KEYS[:7], unit=2)
    assert run(tmp_path, KEYS, unit=100)[0].computed == KEYS[7:]
    context, computer, summary = Context(work=tmp_path, unit=50), Computer(KEYS), Summary()
    compute_missing(
        {"o": Parts(tmp_path, "o", {})}, {"o": KEYS}, range(10), computer.load, context, summary, "strings", unit=4
    )
    assert [len(keys) for keys, _ in computer.units] == [4, 4, 2]


def test_configurations_and_kinds_never_mix(tmp_path: Path) -> None:
    folders = set()
    for config in ({"k": 1}, {"k": 2}, {"k": 1, "code": "x"}, {}):
        computer, parts, _ = run(tmp_path, KEYS[:3], **config)
        assert computer.computed == KEYS[:3]
        folders.add(parts["kind"].folder)
    assert run(tmp_path, KEYS[:3], ["other"], k=1)[0].computed == KEYS[:3]
    assert run(tmp_path, KEYS[:3], k=1)[0].loads == 0
    assert len(folders) == 4
    for folder in folders:
        assert json.loads((folder / "config.json").read_text())["kind"] == "kind"


def test_only_the_missing_kind_is_computed(tmp_path: Path) -> None:
    """A further k of the global features must not cost the local ones."""
    run(tmp_path, KEYS[:4], ["local", "global.k3"])
    run(tmp_path, KEYS[4:5], ["local"])
    computer, _, summary = run(tmp_path, KEYS[:6], ["local", "global.k3", "global.k6"], unit=3)
    assert computer.units == [
        (KEYS[:3], ("global.k6",)),
        (KEYS[3:4], ("global.k6",)),
        (KEYS[4:5], ("global.k3", "global.k6")),
        (KEYS[5:6], ("local", "global.k3", "global.k6")),
    ]
    assert (summary.computed, summary.reused) == ({"images": 6}, {"images": 0})
    assert len(summary.parts) == 3


def test_skipped_rows_and_seconds_stand_in_the_manifest(tmp_path: Path) -> None:
    _, parts, summary = run(tmp_path, KEYS[:5])
    lines = [json.loads(line) for line in manifest(parts["kind"]).read_text().splitlines()]
    assert [line["inputs"] for line in lines] == [KEYS[:3], KEYS[3:5]]
    assert [line["skipped"] for line in lines] == [[], ["image-3 is odd"]]
    assert {"load models", "compute", "write parts"} <= set(summary.seconds)
    assert all(line["seconds"] >= 0 and (parts["kind"].folder / line["part"]).is_file() for line in lines)


def test_progress_is_tracked_by_unit(tmp_path: Path) -> None:
    seen: list[tuple[int, str]] = []

    def track(units: Sequence[Any], label: str) -> Sequence[Any]:
        seen.append((len(units), label))
        return units

    context = Context(work=tmp_path, unit=4, track=track)
    compute_missing(
        {"kind": Parts(tmp_path, "kind", {})},
        {"kind": KEYS},
        range(10),
        Computer(KEYS).load,
        context,
        Summary(),
        "images",
    )
    assert seen == [(3, "images")]


def test_a_unit_that_fails_leaves_the_finished_ones(tmp_path: Path) -> None:
    computer = Computer(KEYS)

    def compute(positions: Sequence[int], kinds: tuple[str, ...]) -> list[Result]:
        if 6 in positions:
            raise RuntimeError("out of memory")
        return computer.compute(positions, kinds)

    with pytest.raises(RuntimeError, match="out of memory"):
        compute_missing(
            {"kind": Parts(tmp_path, "kind", {})},
            {"kind": KEYS},
            range(10),
            lambda device: compute,
            Context(work=tmp_path, unit=3),
            Summary(),
            "images",
        )
    assert run(tmp_path, KEYS)[0].computed == KEYS[6:]


# --- what an interrupted write leaves


@pytest.mark.parametrize("cut", [1, 2, 20, -1])
def test_a_torn_last_line_is_repaired(tmp_path: Path, cut: int) -> None:
    """The last line lacks its end, or all but its first characters; the next one must not be glued to it."""
    _, parts, _ = run(tmp_path, KEYS[:6])
    path = manifest(parts["kind"])
    first, last = path.read_text().splitlines(keepends=True)
    path.write_text(first + last[: -cut if cut > 0 else 1])
    assert run(tmp_path, KEYS[:9])[0].computed == KEYS[3:9]
    assert run(tmp_path, KEYS[:9])[0].loads == 0
    assert all(json.loads(line) for line in path.read_text().splitlines())


def test_a_part_without_a_line_is_ignored(tmp_path: Path) -> None:
    _, parts, _ = run(tmp_path, KEYS[:6])
    path = manifest(parts["kind"])
    path.write_text(path.read_text().splitlines(keepends=True)[0])
    (parts["kind"].folder / ("f" * 20 + ".npz")).write_bytes(b"never finished")
    assert run(tmp_path, KEYS[:6])[0].computed == KEYS[3:6]


def test_a_line_without_its_part_is_computed_again(tmp_path: Path) -> None:
    """The remedy for a damaged part is to remove it."""
    _, parts, _ = run(tmp_path, KEYS)
    lines = [json.loads(line) for line in manifest(parts["kind"]).read_text().splitlines()]
    (parts["kind"].folder / lines[1]["part"]).unlink()
    assert run(tmp_path, KEYS)[0].computed == lines[1]["inputs"]
    assert run(tmp_path, KEYS)[0].loads == 0
    (parts["kind"].folder / lines[1]["part"]).unlink()
    assert run(tmp_path, KEYS[2:5], unit=2)[0].computed == KEYS[3:5]  # other units: a line of each now names the input
    assert run(tmp_path, KEYS)[0].computed == KEYS[5:6]


def test_temporaries_of_a_killed_write_are_removed(tmp_path: Path) -> None:
    _, parts, _ = run(tmp_path, KEYS[:3])
    left = parts["kind"].folder / ".0123.npz.89abcdef.tmp"
    left.write_bytes(b"half a part")
    assert run(tmp_path, KEYS[:3])[0].loads == 0
    assert not left.exists()


def test_a_damaged_manifest_line_is_named(tmp_path: Path) -> None:
    _, parts, _ = run(tmp_path, KEYS)
    path = manifest(parts["kind"])
    lines = path.read_text().splitlines(keepends=True)
    for damaged in (lines[1].replace('"part"', '"qart"'), lines[1].replace("{", "", 1), "\n"):
        path.write_text("".join([lines[0], damaged, *lines[2:]]))
        with pytest.raises(StoreError, match=r"manifest\.jsonl.*remove that line"):
            Parts(tmp_path, "kind", {})
    path.write_text("".join([lines[0], *lines[2:]]))
    assert run(tmp_path, KEYS)[0].computed == KEYS[3:6]


def test_a_damaged_part_is_named(tmp_path: Path) -> None:
    _, parts, _ = run(tmp_path, KEYS)
    for path in part_files(parts["kind"])[:2]:
        whole = path.read_bytes()
        lines = map(json.loads, manifest(parts["kind"]).read_text().splitlines())
        keys = next(line["inputs"] for line in lines if line["part"] == path.name)
        expected = [item(key) for key in keys]
        damages = [b"", whole[: len(whole) // 2], b"text"]
        damages += [bytes([*whole[:at], whole[at] ^ 4, *whole[at + 1 :]]) for at in range(0, len(whole), 13)]
        detected = 0
        for damaged in damages:
            path.write_bytes(damaged)
            try:  # a byte that no reader looks at (a date in the archive) may change
                assert all(
                    same(Parts(tmp_path, "kind", {}).get(key), want) for key, want in zip(keys, expected, strict=True)
                )
            except StoreError as error:
                detected += 1
                found = str(error)
                assert str(path) in found
                assert "remove it" in found
        assert detected > len(damages) / 2
        path.write_bytes(whole)


def test_an_input_that_no_part_holds(tmp_path: Path) -> None:
    _, parts, _ = run(tmp_path, KEYS[:1])
    assert KEYS[0] in parts["kind"]
    assert KEYS[1] not in parts["kind"]
    with pytest.raises(StoreError, match=f"{parts['kind'].folder}.*{KEYS[1]}"):
        parts["kind"].get(KEYS[1])


def test_parts_are_read_once_and_not_all_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In order each part is read once; the features of a whole data set do not stay in memory."""
    keys = [f"x{i}" for i in range(30)]
    run(tmp_path, keys, unit=2)
    loads: list[object] = []
    load = np.load

    def counting(file: Any, **options: Any) -> Any:
        loads.append(file)
        return load(file, **options)

    monkeypatch.setattr(np, "load", counting)
    parts = Parts(tmp_path, "kind", {})
    for key in keys:
        parts.get(key)
    assert len(loads) == 15
    for key in reversed(keys):
        parts.get(key)
    assert 25 <= len(loads) < 30


# --- other processes

CHILD = """
import os, sys, time
from pathlib import Path
sys.path.insert(0, {root!r})
import store.publish, store.work
from stages.base import Context, Summary, compute_missing
from store.work import Parts, locked
from tests.test_work import Computer

work, target, keys, spoken = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3].split(","), []


def say(*words):
    spoken.append(words)
    print(*words, flush=True)
    if len(spoken) == target:
        time.sleep(600)


def compute(positions, kinds):
    say("compute", *positions)
    return computer.compute(positions, kinds)


os.fsync = lambda file: say("write")
with locked(work):
    say("locked")
    computer = Computer(keys)
    parts = {{kind: Parts(work, kind, {{}}) for kind in ("local", "global.k3")}}
    inputs = range(len(keys))
    load = lambda device: compute
    compute_missing(parts, dict.fromkeys(parts, keys), inputs, load, Context(work=work, unit=2), Summary(), "images")
"""


@contextmanager
def stopped(work: Path, target: int) -> Iterator[list[str]]:
    """A process that works on ``KEYS`` in units of two, stopped in the middle of its ``target``-th step: it takes the
    lock, then for each unit computes, writes a part for one kind and for the other, then a line for either. Killed
    by SIGKILL at the end. Yields the steps."""
    command = [sys.executable, "-c", CHILD.format(root=str(ROOT)), str(work), str(target), ",".join(KEYS)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield [process.stdout.readline().strip() for _ in range(target)]
        finally:
            process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL


def test_a_second_process_is_told_that_it_is_busy(tmp_path: Path) -> None:
    with stopped(tmp_path, 1) as steps:
        assert steps == ["locked"]
        with pytest.raises(BusyError, match=rf"{tmp_path}.*another process"), locked(tmp_path):
            pass
        with locked(tmp_path / "other"):  # another folder is free
            pass
    with locked(tmp_path):  # the system freed it with the process
        pass


def test_the_lock_is_freed_by_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="inside"), locked(tmp_path):
        raise ValueError("inside")
    with locked(tmp_path):
        pass


def outputs(work: Path) -> dict[str, bytes]:
    """All parts: their names and bytes tell which inputs they hold and what came out."""
    return {p.relative_to(work).as_posix(): p.read_bytes() for p in work.rglob("*.npz")}


@pytest.mark.parametrize("target", [2, 3, 4, 5, 6, 12, 14, 26])
def test_kill_9_loses_at_most_one_unit(tmp_path: Path, target: int) -> None:
    work, kinds = tmp_path / "killed", ("local", "global.k3")
    with stopped(work, target) as steps:
        assert (
            steps
            == ["locked", *(step for n in range(5) for step in (f"compute {2 * n} {2 * n + 1}", *["write"] * 4))][
                :target
            ]
        )
    units, rest = divmod(
        target - 2, 5
    )  # whole units, then: 0 computing, 1 and 2 writing a part, 3 and 4 flushing its line
    held = {"local": 2 * (units + (rest >= 3)), "global.k3": 2 * (units + (rest >= 4))}
    assert bool(list(work.rglob("*.tmp"))) == (rest in (1, 2))
    for kind in kinds:
        parts = Parts(work, kind, {})
        assert [key for key in KEYS if key in parts] == KEYS[: held[kind]]
    resumed, opened, summary = run(work, KEYS, kinds, unit=2)
    assert [(key, missing) for keys, missing in resumed.units for key in keys] == [
        (key, tuple(kind for kind in kinds if i >= held[kind])) for i, key in enumerate(KEYS) if i >= held["global.k3"]
    ]
    assert summary.reused == {"images": held["global.k3"]}
    run(tmp_path / "whole", KEYS, kinds, unit=2)
    assert outputs(work) == outputs(tmp_path / "whole")
    assert all(len(part_files(parts)) == 5 for parts in opened.values())
    assert not list(work.rglob("*.tmp"))
