"""Units on dask: the plain loop's results to the byte, a killed worker costs its unit, errors arrive as they are."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from distributed import LocalCluster

from demo.refshapes import write_benchmark
from pipeline.runner import Execution
from pipeline.workers import Workers, _device_of
from stages.contract import Context, Summary, compute_missing
from store.errors import DataError, ParameterError
from store.work import Parts
from tests.helpers.profile import ROOT, command_of, demo_values
from tests.helpers.worker_loads import logged, refusing

KEYS = [f"key-{n}" for n in range(9)]


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    with Workers(2, "") as two:
        yield two


def run(folder: Path, workers: Workers, load: Any) -> tuple[Parts, Summary]:
    parts, summary = Parts(folder / "work", "kind", {}), Summary()
    context = Context(work=folder / "work", unit=2, execute=workers)
    compute_missing({"kind": parts}, {"kind": KEYS}, range(len(KEYS)), load, context, summary, "numbers")
    return parts, summary


def test_a_killed_worker_costs_its_unit_only(tmp_path: Path, workers: Workers) -> None:
    parts, summary = run(tmp_path, workers, partial(logged, tmp_path, 4))
    assert [int(parts.get(key)["square"][0]) for key in KEYS] == [n * n for n in range(9)]
    assert summary.computed == {"numbers": 9}
    assert (tmp_path / "killed").exists()
    tried = {n: len(list(tmp_path.glob(f"{n}-*"))) for n in range(9)}
    assert tried[4] == 2
    assert all(tried[n] == 1 for n in range(9) if n not in (4, 5)), "other units were not computed again"
    loads = len(list(tmp_path.glob("load-*")))
    assert 2 <= loads <= 3, "each process loads once"
    again = Parts(tmp_path / "work", "kind", {})
    assert again.missing(KEYS) == []


def test_an_error_of_a_unit_arrives_as_it_is(tmp_path: Path, workers: Workers) -> None:
    with pytest.raises(DataError, match="picture 7: broken; put it right"):
        run(tmp_path, workers, refusing)


def test_a_running_scheduler_serves_as_well(tmp_path: Path) -> None:
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address="127.0.0.1:0") as cluster,
        Workers(0, cluster.scheduler_address) as remote,
    ):
        parts, _ = run(tmp_path, remote, partial(logged, tmp_path, -1))
    assert [int(parts.get(key)["square"][0]) for key in KEYS] == [n * n for n in range(9)]


def test_an_address_without_a_scheduler_is_one_clear_error(tmp_path: Path) -> None:
    with (
        Workers(0, "nowhere") as remote,
        pytest.raises(ParameterError, match="scheduler nowhere: expected the address"),
    ):
        run(tmp_path, remote, refusing)


def test_workers_or_a_scheduler() -> None:
    with pytest.raises(ParameterError, match="got both"):
        Execution.from_environment({"workers": 2, "scheduler": "tcp://x:1"})


@pytest.mark.parametrize(
    ("device", "worker", "devices", "own"),
    [("cuda", 0, 2, "cuda:0"), ("cuda", 3, 2, "cuda:1"), ("cuda", "tcp://x", 2, "cuda"), ("cuda", 1, 1, "cuda"),
     ("cpu", 1, 2, "cpu"), ("cuda:1", 0, 2, "cuda:1")],
)  # fmt: skip
def test_local_workers_take_the_gpus_in_turn(device: str, worker: Any, devices: int, own: str) -> None:
    assert _device_of(device, worker, devices) == own


def test_the_stages_write_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each run in processes of its own, with one torch thread in the plain loop as in a worker: sums depend on it."""
    write_benchmark(tmp_path / "refer", images_per_split=1)
    files = {}
    for name, count in (("plain", "0"), ("two", "2")):
        values = demo_values(tmp_path)
        values |= {"data": f"{tmp_path}/{name}", "work": f"{tmp_path}/work-{name}"}
        Path(values["profile"]).write_text(yaml.safe_dump(values))
        environment = {**os.environ, "GLIMPSE_WORKERS": count, "GLIMPSE_UNIT": "2", "OMP_NUM_THREADS": "1"}
        for stage in ("index", "propose", "embed_masks", "parse", "embed_text"):
            words = command_of(stage, values)[1:]
            subprocess.run([sys.executable, *words], cwd=ROOT, env=environment, check=True, capture_output=True)
        record = json.loads((tmp_path / f"work-{name}/records/embed_masks@vit.json").read_text())
        assert record["computed"]["images"] >= 3, "several units"
        folder = tmp_path / name
        files[name] = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert files["plain"].keys() == files["two"].keys()
    different = [file for file, content in files["plain"].items() if files["two"][file] != content]
    assert different == []
