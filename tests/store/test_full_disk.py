"""A full disk, or a limit on the size of files, at any point of a write: the good old output stays, and one message says so."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from demo.refshapes import write_benchmark
from stages import overlap, score
from tests.helpers.full_disk import LEVELS, on_a_full_disk, small_disk
from tests.helpers.oracles import make_pairs
from tests.helpers.profile import command_of, demo_values
from tests.helpers.stores import synthetic

KINDS = ("table", "vectors", "document", "page", "picture", "variants", "parts")


@pytest.mark.parametrize("how", ["full", "limit"])
def test_every_kind_of_output(how: str, tmp_path: Path) -> None:
    """Where no small disk can be mounted, the limit on the size of files alone stands for it."""
    with small_disk(tmp_path / "disk") as mounted:
        if how == "full" and not mounted:
            pytest.skip("mounting a tmpfs is not allowed here; the limit on the size of files is tested")
        failed = on_a_full_disk(how, tmp_path / "disk", dict.fromkeys(KINDS))
    assert set(failed) == set(KINDS)
    assert all(LEVELS // 2 < number < LEVELS for number in failed.values()), failed


@pytest.mark.parametrize("how", ["full", "limit"])
def test_stages_end_with_status_1_and_a_message(how: str, tmp_path: Path) -> None:
    """`overlap` and `score` printed "wrote ..." over a damaged table, `index` crashed."""
    made = synthetic(tmp_path / "in", counts=(60, 0, 120, 1, 90))
    make_pairs(made)
    disk, work = tmp_path / "disk", tmp_path / "disk/work"
    write_benchmark(tmp_path / "refer", images_per_split=2)
    values = demo_values(tmp_path) | {"data": str(disk), "work": str(work)}
    Path(values["profile"]).write_text(yaml.safe_dump(values))
    tasks = {"index": {"words": command_of("index", values)[3:], "outputs": [disk / "index.h5"]}}
    for stage in (overlap, score):
        name = stage.__name__.rpartition(".")[2]
        fields = stage.Paths.model_fields
        paths = {n: made.paths.get(n, disk / n) for n in fields} | {
            n: disk / f"{name} {n}" for n in stage.Paths.outputs
        }
        words = ["run", name, "--work", work, *(word for n, path in paths.items() for word in (f"--{n}", path))]
        tasks[name] = {"words": words, "outputs": [disk / f"{name} {n}" for n in stage.Paths.outputs]}
    for name, task in tasks.items():
        task |= {key: list(map(str, value)) for key, value in task.items()}
        task["outputs"].append(str(work / f"records/{name}.json"))
    with small_disk(disk) as mounted:
        if how == "full" and not mounted:
            pytest.skip("mounting a tmpfs is not allowed here; the limit on the size of files is tested")
        failed = on_a_full_disk(how, disk, tasks)
    assert set(failed) == set(tasks)
    assert all(LEVELS // 3 < number < LEVELS for number in failed.values()), failed
