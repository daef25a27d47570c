"""The work folder: only what is missing is computed, and what is there is read back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages.contract import Context, Summary, compute_missing
from store.errors import StoreError
from store.units import Result
from store.work import Parts
from tests.helpers.work_runs import KEYS, Computer, manifest, part_files, run


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
