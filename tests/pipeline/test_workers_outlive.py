"""Workers that outlive a run: each run gets its own values, to the byte of a plain run, or an error that says what to do."""

from __future__ import annotations

import importlib
import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from distributed import LocalCluster
from safetensors.torch import load_file, save_file

from demo.refshapes import write_benchmark
from pipeline.workers import Workers
from stages import embed_masks, embed_text
from stages.contract import Context, Summary, compute_missing
from store.errors import CodeError, StoreError
from store.fingerprint import PACKAGES, file_digest, library_versions
from store.ragged import Bytes
from store.table import content_digest, read_table, write_table
from store.units import in_process
from store.work import Parts
from tests.helpers.profile import ROOT, command_of, demo_values, run_stages
from tests.helpers.worker_loads import replacing_meanwhile, scaled

INPUTS = range(5)


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(n_workers=1, threads_per_worker=1, processes=True, dashboard_address="127.0.0.1:0") as running:
        yield running


@pytest.fixture
def execute(cluster: LocalCluster) -> Iterator[Workers]:
    """As each `glimpse run --scheduler` has it: a client of its own, the workers are the same."""
    with Workers(0, cluster.scheduler_address) as workers:
        yield workers


def products(
    work: Path, load: Any, execute: Any, keys: list[str], reads: Mapping[Path, str], **config: Any
) -> list[int]:
    kinds = {"kind": Parts(work, "kind", config)}
    context = Context(work=work, unit=2, execute=execute)
    results = compute_missing(kinds, {"kind": keys}, list(INPUTS), load, context, Summary(), "numbers", reads=reads)
    return [int(results.get("kind", key)["product"][0]) for key in keys]


def test_weights_replaced_at_the_same_path(tmp_path: Path, execute: Workers) -> None:
    """They are part of the parts' configuration: that alone tells them apart."""
    file = tmp_path / "weights"
    for factor in (3, 7, 3):
        file.write_text(str(factor))
        weights = file_digest(file)
        found = products(tmp_path, partial(scaled, file), execute, [str(n) for n in INPUTS], {}, weights=weights)
        assert found == [n * factor for n in INPUTS]


def test_a_table_replaced_at_the_same_path(tmp_path: Path, execute: Workers) -> None:
    """The configuration is the same, the keys of the inputs are others."""
    file = tmp_path / "table"
    for factor in (3, 7):
        file.write_text(str(factor))
        keys = [f"{n} of {factor}" for n in INPUTS]
        found = products(tmp_path, partial(scaled, file), execute, keys, {file: content_digest(file)})
        assert found == [n * factor for n in INPUTS]


@pytest.mark.parametrize("where", ["here", "in a worker"])
def test_a_file_that_changes_between_the_look_and_the_load(tmp_path: Path, execute: Workers, where: str) -> None:
    run = in_process if where == "here" else execute
    keys = [str(n) for n in INPUTS]
    for name, load, text in (("other", scaled, "7"), ("meanwhile", replacing_meanwhile, "3"), ("gone", scaled, None)):
        file, work = tmp_path / name, tmp_path / f"work-{name}"
        file.write_text("3")
        reads = {file: content_digest(file)}
        file.unlink() if text is None else file.write_text(text)
        with pytest.raises(StoreError, match=rf"{file}: .*run"):
            products(work, partial(load, file), run, keys, reads)
        assert not list(work.rglob("*.npz")), "nothing is kept under the wrong key"


MODULE = """
import numpy as np
from store.units import Result

def load(device):
    return lambda inputs, kinds: [Result({kind: {"product": np.array([n * 3])} for kind in kinds}) for n in inputs]
"""


def test_edited_code_is_refused_by_a_worker_that_has_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    keys, file = [str(n) for n in INPUTS], tmp_path / "edited_load.py"
    file.write_text(MODULE)
    module = importlib.import_module("edited_load")
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address="127.0.0.1:0") as cluster,
        Workers(0, cluster.scheduler_address) as execute,
    ):
        run = partial(products, tmp_path / "work", module.load, execute, keys, {})
        assert run(code="1") == [n * 3 for n in INPUTS]
        file.write_text(MODULE.replace("* 3", "* 5"))
        with pytest.raises(CodeError, match=r"edited_load: .*restart the dask workers"):
            run(code="2")
        file.write_text(f"# three times\n{MODULE}")
        assert run(code="3") == [n * 3 for n in INPUTS]
    assert sorted(p.parent.name for p in (tmp_path / "work").rglob("*.npz")) == sorted(
        [Parts(tmp_path / "work", "kind", {"code": code}).folder.name for code in ("1", "3")] * 3
    )


def test_other_libraries_are_refused(tmp_path: Path, execute: Workers) -> None:
    file, keys = tmp_path / "weights", [str(n) for n in INPUTS]
    file.write_text("3")
    run = partial(products, tmp_path, partial(scaled, file), execute, keys, {})
    assert run(libraries=library_versions("numpy")) == [n * 3 for n in INPUTS]
    with pytest.raises(CodeError, match=r"numpy .* instead of 0\.0\.1.*restart the dask workers"):
        run(libraries={"numpy": "0.0.1"})


# --- the stages


@pytest.fixture(scope="module")
def profile(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A small run up to what embed_masks and embed_text read: masks are the annotated objects."""
    folder = tmp_path_factory.mktemp("profile")
    write_benchmark(folder / "refer", images_per_split=1)
    values = demo_values(folder)
    values["propose"]["source"] = "instances"
    values["embed_masks"]["masked_blocks"] = [2]
    run_stages(values, "index", "propose", "parse")
    shutil.copyfile(ROOT / "demo/models/refshapes_clip.safetensors", folder / "clip.safetensors")
    return values


def replace_weights(folder: Path) -> None:
    file = folder / "clip.safetensors"
    save_file({name: tensor * 1.01 for name, tensor in load_file(file).items()}, folder / "new.safetensors")
    os.replace(folder / "new.safetensors", file)


def replace_proposals(folder: Path) -> None:
    """Masks in another order, boxes a pixel larger: of the same sizes, for the same index."""
    file = folder / "data/proposals.h5"
    table = read_table(file, "proposals")
    masks, offsets = list(table["mask"]), table["image_offsets"].tolist()
    turned = [mask for start, stop in pairwise(offsets) for mask in masks[start:stop][::-1]]
    columns = {**table.columns, "mask": Bytes.of(turned), "box": table["box"] + 1}
    write_table(file, "proposals", columns, {}, table.attrs["made_from"])


def vectors(folder: Path, name: str, execute: Any) -> dict[str, bytes]:
    """Run embed_masks and embed_text; the files of their outputs."""
    clip = {"model": str(ROOT / "demo/models/refshapes_clip.json")}
    weights, data, out = folder / "clip.safetensors", folder / "data", folder / name
    context = Context(work=folder / f"work-{name}", unit=2, execute=execute)
    embed_masks.run(
        embed_masks.Params(**clip, masked_blocks=[2], short_side=64),
        embed_masks.Paths(index=data / "index.h5", images=folder / "refer/images", proposals=data / "proposals.h5",
                          weights=weights, mask_features=out / "masks"),
        context,
    )  # fmt: skip
    embed_text.run(
        embed_text.Params(**clip),
        embed_text.Paths(parse=data / "parse.h5", weights=weights, text_features=out / "texts"),
        Context(work=folder / f"work-{name}-text", execute=execute),
    )
    return {file.relative_to(out).as_posix(): file.read_bytes() for file in sorted(out.rglob("*")) if file.is_file()}


def test_other_weights_and_proposals_between_runs(profile: dict[str, Any], cluster: LocalCluster) -> None:
    """The workers and their work folder live on; every run's outputs are those of a plain run that starts afresh."""
    folder = Path(profile["profile"]).parent
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as a worker has: sums depend on it
    changes: list[Callable[[Path], None]] = [replace_proposals, replace_weights]
    seen = []
    try:
        for number, change in enumerate([None, *changes]):
            if change:
                change(folder)
            with Workers(0, cluster.scheduler_address) as execute:
                found = vectors(folder, "workers", execute)
            expected = vectors(folder, f"plain{number}", in_process)
            assert [name for name in expected if found[name] != expected[name]] == []
            seen.append(found["masks/manifest.json"])
    finally:
        torch.set_num_threads(threads)
    assert len(set(seen)) == len(seen), "each run had other values"


LOADED = """
import pickle, sys
from pathlib import Path
from pipeline.workers import finish
from store.fingerprint import PACKAGES
from store.loader import code_of

load, unit = pickle.loads(sys.stdin.buffer.read())
finish(unit, load("cpu"))
mine = [name for name in list(sys.modules) if name.partition(".")[0] in PACKAGES]
mine = {name for name in mine if Path(sys.modules[name].__file__).read_text().strip()}
print(sorted(mine - load.code.keys() - code_of("pipeline.workers").keys()), len(load.code))
"""


@pytest.mark.parametrize("stage", ["propose", "embed_masks", "parse", "embed_text"])
def test_all_code_that_a_worker_runs_is_known(profile: dict[str, Any], tmp_path: Path, stage: str) -> None:
    """Modules that are imported by their names are no exception: all that a fresh process has loaded in the end."""
    folder = Path(profile["profile"]).parent
    data, clip = folder / "data", {"model": str(ROOT / "demo/models/refshapes_clip.json")}
    params = {
        "propose": {"short_side": 64},
        "embed_masks": {**clip, "short_side": 64},
        "embed_text": clip,
        "parse": {"spacy_model": "en_core_web_sm"},
    }[stage]
    files = {name: data / f"{name}.h5" for name in ("index", "proposals", "parse")} | {
        "images": folder / "refer/images",
        "input": ROOT / "demo/models/refshapes_freesolo.safetensors",
        "weights": ROOT / "demo/models/refshapes_clip.safetensors",
    }
    module = importlib.import_module(f"stages.{stage}")
    paths = {
        name: tmp_path / name if name in module.Paths.outputs else files[name] for name in module.Paths.model_fields
    }
    said = []

    def elsewhere(load: Any, units: Any, device: str) -> Any:
        sent = pickle.dumps((load, units[0]))
        said.append(
            subprocess.run([sys.executable, "-c", LOADED], cwd=ROOT, input=sent, capture_output=True, check=True)
        )
        yield from in_process(load, units, device)

    module.run(
        module.Params(**params), module.Paths(**paths), Context(work=tmp_path / "work", unit=1, execute=elsewhere)
    )
    unknown, count = said[0].stdout.decode().strip().rsplit(" ", 1)
    assert unknown == "[]"
    assert int(count) > 5


@contextmanager
def workers_of(tree: Path, environment: dict[str, str]) -> Iterator[str]:
    """A cluster of one worker in its own process, started in ``tree``; its address."""
    code = (
        "import sys\nfrom distributed import LocalCluster\nif __name__ == '__main__':\n"
        "    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address='127.0.0.1:0') as cluster:\n"
        "        print(cluster.scheduler_address, flush=True)\n        sys.stdin.read()\n"
    )
    (tree / "cluster.py").write_text(code)
    with subprocess.Popen(
        [sys.executable, "cluster.py"],
        cwd=tree,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.stdin.close()


def test_a_stage_whose_code_was_edited(profile: dict[str, Any], tmp_path: Path) -> None:
    """`glimpse run parse --scheduler`, each a process of its own, over workers that live on."""
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    values = profile | {"profile": str(tmp_path / "params.yaml"), "work": str(tmp_path / "work")}
    Path(values["profile"]).write_text(yaml.safe_dump(values))
    words = command_of("parse", values)[1:]
    output, file = Path(profile["data"]) / "parse.h5", tmp_path / "stages/text/words.py"

    def run(*options: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, *words, *options], cwd=tmp_path, env=environment, capture_output=True,
                              text=True, check=False)  # fmt: skip

    with workers_of(tmp_path, environment) as address:
        assert run("--scheduler", address).returncode == 0
        plain = output.read_bytes()
        file.write_text(f"# a comment\n{file.read_text()}")
        shutil.rmtree(tmp_path / "work")
        assert run("--scheduler", address).returncode == 0, "a comment is no other code"
        assert output.read_bytes() == plain
        file.write_text(file.read_text().replace('"left": (', '"left": ("red", '))
        refused = run("--scheduler", address)
        assert refused.returncode == 1
        assert "stages.text.words: " in refused.stderr
        assert "restart the dask workers" in " ".join(refused.stderr.split())
        assert "Traceback" not in refused.stderr
    with workers_of(tmp_path, environment) as address:
        assert run("--scheduler", address).returncode == 0
    edited = output.read_bytes()
    shutil.rmtree(tmp_path / "work")
    assert run().returncode == 0
    assert output.read_bytes() == edited != plain
    assert any(
        json.loads(text) == ["left"] for text in read_table(output, "parse", ["position_words"])["position_words"]
    )
