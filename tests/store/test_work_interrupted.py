"""The work folder after a kill or damage, and with a second process: at most one unit is lost, nothing wrong is read."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from store.errors import BusyError, StoreError
from store.locks import locked
from store.work import Parts, part_name, skipped_of, write_part
from tests.helpers.profile import ROOT
from tests.helpers.work_runs import KEYS, item, manifest, part_files, run, same


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
    """Whatever is wrong with it, also where it is still JSON; the command that the message gives repeats its work alone."""
    _, parts, _ = run(tmp_path, KEYS)
    path = manifest(parts["kind"])
    lines = path.read_bytes().splitlines(keepends=True)
    line = json.loads(lines[1])
    rotated = {**line, "inputs": [*line["inputs"][1:], line["inputs"][0]]}
    damages = [
        lines[1].replace(b'"part"', b'"qart"'),
        lines[1].replace(b"{", b"", 1),
        *(b"\n", b"null\n", b"[1]\n", b'"text"\n', b"{}\n", b"NaN\n", b"\xff\xfe\n", b"[" * 3000 + b"\n"),
        json.dumps(rotated).encode() + b"\n",
        json.dumps({**line, "skipped": ["x"]}).encode() + b"\n",
        lines[1].replace(b"image-4", b"image-9"),
        lines[1][:-1] + b" " + lines[2],
    ]
    for damaged in damages:
        path.write_bytes(b"".join([lines[0], damaged, *lines[2:]]))
        with pytest.raises(StoreError, match=r"manifest\.jsonl: damaged, its line 2 .*remove that line"):
            Parts(tmp_path, "kind", {})
    path.write_bytes(b"".join([lines[0], damages[0], damages[1], *lines[3:]]))
    with pytest.raises(StoreError, match="its line 2, 3 ") as error:
        Parts(tmp_path, "kind", {})
    path.write_bytes(b"".join([lines[0], damages[0], *lines[2:3], damages[1]]))
    with pytest.raises(StoreError, match="its line 2, 4 ") as error:
        Parts(tmp_path, "kind", {})
    subprocess.run(["sh", "-c", str(error.value).rpartition(": ")[2]], check=True)
    assert run(tmp_path, KEYS)[0].computed == [*KEYS[3:6], *KEYS[9:]]


def test_every_flipped_byte_of_a_manifest_is_found(tmp_path: Path) -> None:
    """But one that makes the last line look torn: its work is done again."""
    _, parts, _ = run(tmp_path, KEYS)
    path = manifest(parts["kind"])
    whole, folder = path.read_bytes(), parts["kind"].folder
    assert len(whole) > 500
    for at in range(0, len(whole) - 1, 3):
        path.write_bytes(bytes([*whole[:at], whole[at] ^ 1 << at % 8, *whole[at + 1 :]]))
        with pytest.raises(StoreError, match=rf"{folder}/manifest\.jsonl: damaged, its line \d"):
            Parts(tmp_path, "kind", {})
    path.write_bytes(whole[:-1] + b"\x0b")
    assert KEYS[9] not in Parts(tmp_path, "kind", {})


def test_parts_know_what_they_are(tmp_path: Path) -> None:
    """Two swapped; one of another kind or configuration with the same inputs; a line that names other inputs."""
    _, parts, _ = run(tmp_path, KEYS, ["kind", "other"])
    run(tmp_path, KEYS, k=1)
    first, second = part_files(parts["kind"])[:2]
    kept = {path: path.read_bytes() for path in (first, second)}
    foreign = [second, parts["other"].folder / first.name, Parts(tmp_path, "kind", {"k": 1}).folder / first.name]
    key = next(line["inputs"][0] for line in _lines(parts["kind"]) if line["part"] == first.name)
    for other, what in zip(foreign, ("inputs", "kind, config", "config"), strict=True):
        first.write_bytes(other.read_bytes())
        opened = Parts(tmp_path, "kind", {})
        for _ in range(2):  # reading it once does not make it good
            with pytest.raises(StoreError, match=rf"{first}: .*another one \(its {what}: .*remove it and run again"):
                opened.get(key)
        first.write_bytes(kept[first])
    for path, other in ((first, second), (second, first)):
        path.write_bytes(kept[other])
    with pytest.raises(StoreError, match="another one"):
        run(tmp_path, KEYS, ["kind", "other"])
    first.unlink()
    second.unlink()
    lost = [
        key for line in _lines(parts["kind"]) if line["part"] in (first.name, second.name) for key in line["inputs"]
    ]
    assert run(tmp_path, KEYS, ["kind", "other"])[0].computed == lost


def test_a_manifest_that_was_forged_whole(tmp_path: Path) -> None:
    """Rotated inputs under a digest that fits: the part itself says which they are."""
    _, parts, _ = run(tmp_path, KEYS)
    lines = _lines(parts["kind"])
    keys = lines[0]["inputs"]
    manifest(parts["kind"]).unlink()
    forged = Parts(tmp_path, "kind", {})
    forged.record(lines[0]["part"], [*keys[1:], keys[0]], 0.0)
    for opened in (forged, Parts(tmp_path, "kind", {})):
        with pytest.raises(StoreError, match=r"another one \(its inputs"):
            opened.get(keys[0])


def test_what_a_dead_worker_left_is_taken_only_if_it_is_of_these_inputs(tmp_path: Path) -> None:
    folders = [tmp_path / kind / "0123" for kind in ("kind", "other")]
    for folder in folders:
        part = write_part(folder, KEYS[:2], [item(key) for key in KEYS[:2]], ["odd"])
    assert [skipped_of(folder, KEYS[:2]) for folder in folders] == [["odd"], ["odd"]]
    (folders[0] / part).write_bytes((folders[1] / part).read_bytes())
    assert skipped_of(folders[0], KEYS[:2]) is None
    (folders[1] / part_name(KEYS[1::-1])).write_bytes((folders[1] / part).read_bytes())
    assert skipped_of(folders[1], KEYS[1::-1]) is None


def _lines(parts: Parts) -> list[dict[str, Any]]:
    return [json.loads(line) for line in manifest(parts).read_text().splitlines()]


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


# --- other processes

CHILD = """
import os, sys, time
from pathlib import Path
sys.path.insert(0, {root!r})
import store.publish, store.work
from stages.contract import Context, Summary, compute_missing
from store.locks import locked
from store.work import Parts
from tests.helpers.work_runs import Computer

work, target, keys, spoken = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3].split(","), []


def say(*words):
    spoken.append(words)
    print(*words, flush=True)
    if len(spoken) == target:
        time.sleep(600)


def compute(positions, kinds):
    say("compute", *positions)
    return computer.compute(positions, kinds)


with locked(work):
    say("locked")
    computer = Computer(keys)
    parts = {{kind: Parts(work, kind, {{}}) for kind in ("local", "global.k3")}}
    os.fsync = lambda file: say("write")
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
