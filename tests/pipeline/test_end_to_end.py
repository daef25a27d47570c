"""All ten stages on a small RefShapes with the demo's own models: equalities, growth, resume, faults."""

from __future__ import annotations

import copy
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from demo.refshapes import write_benchmark
from pipeline.commands.show import draw_expression
from pipeline.commands.tables import scored
from pipeline.freshness import stale_line
from pipeline.project import load_project
from stages import embed_text
from stages.score import fused_scores
from stages.text.encoder import TextEncoder
from store.errors import ParameterError, StoreError
from store.table import read_table
from store.vectors import Vectors
from tests.helpers.documents import data_sets
from tests.helpers.profile import ROOT, command_of, lookup, profile_at, run_stages

Values = dict[str, Any]


@pytest.fixture(scope="session")
def benchmark_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("refshapes") / "refer"
    write_benchmark(folder, images_per_split=3)
    return folder


@pytest.fixture
def profile(benchmark_files: Path, tmp_path: Path) -> Values:
    """A profile of its own over the shared benchmark files."""
    return profile_at(tmp_path, benchmark_files)


@pytest.fixture(scope="session")
def finished(benchmark_files: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Values, dict[str, Any]]:
    values = profile_at(tmp_path_factory.mktemp("finished"), benchmark_files)
    return values, run_stages(values)


def same_files(first: Path, second: Path) -> None:
    for path in sorted(first.rglob("*")):
        if path.is_file() and path.name != "report.html":
            assert path.read_bytes() == (second / path.relative_to(first)).read_bytes(), path


def test_the_whole_run_scores_every_expression(finished: tuple[Values, dict[str, Any]]) -> None:
    values, records = finished
    metrics = data_sets(Path(values["metrics"]))
    assert {dataset: list(splits) for dataset, splits in metrics.items()} == {
        "refshapes": ["val", "testA", "testB"],
        "refshapes+": ["val", "testA", "testB"],
        "refshapesg": ["val", "test"],
    }
    total = sum(split["counts"]["expressions"] for splits in metrics.values() for split in splits.values())
    assert total == records["index"]["wrote"]["expressions"]
    for splits in metrics.values():
        for split in splits.values():
            for rule in ("global_local", "global", "cropping", "random", "upper_bound"):
                assert {"oiou", "miou", "p50", "p70", "p90", "n"} <= set(split[rule])
                assert split[rule]["miou"] <= split["upper_bound"]["miou"] + 1e-12
                assert split[rule]["n"] == split["counts"]["expressions"]
    assert Path(values["data"], "report.html").stat().st_size > 100_000


def test_scores_from_the_table_equal_scores_from_the_vectors(finished: tuple[Values, dict[str, Any]]) -> None:
    values, _ = finished
    data = Path(values["data"])
    pairs, scores = read_table(data / "pairs/vit.h5", "pairs"), read_table(data / "scores.h5", "scores")
    masks, text = (
        Vectors(data / "mask_features/vit", "mask_features"),
        Vectors(data / "text_features/vit", "text_features"),
    )
    strings = text.rows("feature")
    sentence, phrase = text.column("sentence_string"), text.column("phrase_string")
    f_global, f_local = masks.rows("view.global.k3"), masks.rows("view.local")
    alpha, beta = values["score"]["alpha"], values["score"]["beta"]
    offsets = pairs["expression_offsets"]
    for row in range(len(offsets) - 1):
        mine = slice(*offsets[row : row + 2])
        own = pairs["proposal"][mine]
        plain = fused_scores(f_global[own], f_local[own], strings[sentence[row]], strings[phrase[row]], alpha, beta)
        np.testing.assert_allclose(scores["score"][mine], plain, atol=2e-4)
        if len(own):
            assert plain[scores["chosen.global_local"][row]] >= plain.max() - 2e-4


def test_a_run_from_scratch_gives_the_same_bytes(finished: tuple[Values, dict[str, Any]], profile: Values) -> None:
    values, _ = finished
    run_stages(profile)
    same_files(Path(values["data"]), Path(profile["data"]))
    assert data_sets(Path(values["metrics"])) == data_sets(Path(profile["metrics"]))  # they say when they were made


def test_batch_and_unit_size_change_no_choice(
    finished: tuple[Values, dict[str, Any]], profile: Values, monkeypatch: pytest.MonkeyPatch
) -> None:
    values, _ = finished
    monkeypatch.setenv("GLIMPSE_BATCH", "3")
    monkeypatch.setenv("GLIMPSE_UNIT", "2")
    run_stages(profile)
    same_files(Path(values["data"], "text_features/vit"), Path(profile["data"], "text_features/vit"))
    first, second = (Vectors(Path(v["data"], "mask_features/vit"), "mask_features") for v in (values, profile))
    for column in ("view.local", "view.global.k3"):
        a, b = first.rows(column), second.rows(column)
        assert (np.linalg.norm(a - b, axis=1) <= 1e-5 * np.linalg.norm(a, axis=1)).all()
    first, second = (read_table(Path(v["data"], "scores.h5"), "scores") for v in (values, profile))
    assert (first["chosen.global_local"] == second["chosen.global_local"]).all()


def test_texts_embedded_in_two_runs_give_the_same_bytes(
    finished: tuple[Values, dict[str, Any]], profile: Values, monkeypatch: pytest.MonkeyPatch
) -> None:
    values, records = finished
    shutil.copytree(values["data"], profile["data"], ignore=shutil.ignore_patterns("text_features"))
    units = [TextEncoder.encode] * 2
    with monkeypatch.context() as patched:
        patched.setattr(embed_text, "_UNIT", 5)
        patched.setattr(TextEncoder, "encode", lambda *given: units.pop()(*given))
        with pytest.raises(IndexError, match="pop from empty list"):
            run_stages(profile, "embed_text")
    record, whole = run_stages(profile, "embed_text")["embed_text"], records["embed_text"]
    assert record["reused"]["strings"] == 10 < record["computed"]["strings"] == whole["computed"]["strings"] - 10
    same_files(Path(values["data"], "text_features/vit"), Path(profile["data"], "text_features/vit"))


def test_new_images_cost_only_themselves(finished: tuple[Values, dict[str, Any]], profile: Values) -> None:
    values, records = finished
    small = copy.deepcopy(profile)
    small["index"]["datasets"] = {"refshapes": {"split_by": "synth", "splits": ["val"]}}
    first = run_stages(small, "index", "propose", "embed_masks", "parse", "embed_text")
    second = run_stages(profile)
    assert first["propose"]["computed"]["images"] == 3
    for stage, what in (
        ("propose", "images"),
        ("embed_masks", "images"),
        ("parse", "sentences"),
        ("embed_text", "strings"),
    ):
        assert second[stage]["reused"][what] == first[stage]["computed"][what] > 0
        assert second[stage]["computed"][what] == records[stage]["computed"][what] - first[stage]["computed"][what] > 0
    same_files(Path(values["data"]), Path(profile["data"]))
    assert data_sets(Path(values["metrics"])) == data_sets(Path(profile["metrics"]))  # they say when they were made
    again = run_stages(profile, "propose", "embed_masks", "parse", "embed_text")
    assert all(not any(record["computed"].values()) for record in again.values())


def test_a_new_k_does_not_recompute_the_local_features(profile: Values) -> None:
    run_stages(profile, "index", "propose", "embed_masks")
    work = Path(profile["work"], "embed_masks@vit")
    before = {path: path.stat().st_mtime_ns for path in (work / "local").rglob("*.npz")}
    profile["embed_masks"]["masked_blocks"] = [2, 3]
    record = run_stages(profile, "embed_masks")["embed_masks"]
    assert {path: path.stat().st_mtime_ns for path in (work / "local").rglob("*.npz")} == before
    assert set(record["wrote"]) == {"local", "global.k2", "global.k3"}
    vectors = Vectors(Path(profile["data"], "mask_features/vit"), "mask_features")
    assert vectors.members("view") == ["global.k2", "global.k3", "local"]
    assert np.abs(vectors.rows("view.global.k2") - vectors.rows("view.global.k3")).max() > 1e-3


def test_another_precision_is_computed_anew_and_changes_little(
    finished: tuple[Values, dict[str, Any]], profile: Values
) -> None:
    values, records = finished
    for name in ("data", "work"):
        shutil.copytree(values[name], profile[name])
    profile["encoders"][profile["encoder"]]["precision"] = "bf16"
    rounded = run_stages(profile, "embed_masks", "embed_text")
    for stage, what in (("embed_masks", "images"), ("embed_text", "strings")):
        assert rounded[stage]["computed"][what] == records[stage]["computed"][what] > 0
    for folder, columns in (("mask_features", ["view.local", "view.global.k3"]), ("text_features", ["feature"])):
        exact, half = (Vectors(Path(v["data"], folder, "vit"), folder) for v in (values, profile))
        for column in columns:
            a, b = exact.rows(column), half.rows(column)
            error = np.linalg.norm(a - b, axis=1) / np.linalg.norm(a, axis=1)
            assert 1e-4 < np.median(error) < 0.05, (column, error)
    profile["encoders"][profile["encoder"]]["precision"] = "float32"
    again = run_stages(profile, "embed_masks", "embed_text")
    assert all(not any(record["computed"].values()) for record in again.values())
    same_files(Path(values["data"], "mask_features/vit"), Path(profile["data"], "mask_features/vit"))


def test_kill_9_loses_at_most_one_unit(finished: tuple[Values, dict[str, Any]], profile: Values) -> None:
    values, _ = finished
    run_stages(profile, "index")
    words = command_of("propose", profile)[1:]
    threads = str(torch.get_num_threads())  # another number changes the last bits, and dask leaves its own
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "GLIMPSE_UNIT": "1"}
    child = subprocess.Popen([sys.executable, *words], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
    work, deadline = Path(profile["work"], "propose"), time.monotonic() + 120
    while len(done := finished_units(work)) < 2 and child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.wait()
    done = finished_units(work)
    assert 2 <= len(done) < 9
    assert not Path(profile["data"], "proposals.h5").exists()
    record = run_stages(profile, "propose")["propose"]
    assert record["reused"]["images"] == len(done)
    assert record["computed"]["images"] == 9 - len(done)
    assert Path(values["data"], "proposals.h5").read_bytes() == Path(profile["data"], "proposals.h5").read_bytes()


def finished_units(work: Path) -> list[str]:
    return [line for path in work.glob("*/*/manifest.jsonl") for line in path.read_text().splitlines()]


def test_outputs_that_do_not_belong_together_are_refused(
    finished: tuple[Values, dict[str, Any]], tmp_path: Path
) -> None:
    values, _ = finished
    mixed = copy.deepcopy(values)
    mixed["data"], mixed["work"] = f"{tmp_path}/data", f"{tmp_path}/work"
    shutil.copytree(values["data"], mixed["data"])
    mixed["propose"]["max_proposals"] = 2
    run_stages(mixed, "propose")
    with pytest.raises(StoreError, match=r"pair: .*overlap\.h5 was made from another proposals"):
        run_stages(mixed, "pair")
    with pytest.raises(StoreError, match=r"make it again: glimpse repair .*overlap\.h5"):
        run_stages(mixed, "pair")


@pytest.fixture
def params_file(finished: tuple[Values, dict[str, Any]], tmp_path: Path) -> Path:
    values = {**finished[0], "root": "."}
    file = tmp_path / "params.yaml"
    file.write_text(yaml.safe_dump(values))
    return file


def test_scoring_from_the_table_equals_the_stage(finished: tuple[Values, dict[str, Any]], params_file: Path) -> None:
    written = data_sets(Path(finished[0]["metrics"]))
    computed = scored(load_project(params_file), {})
    for dataset, splits in written.items():
        for split, rules in splits.items():
            for rule in ("global_local", "random", "upper_bound"):
                assert computed[dataset][split][rule]["miou"] == rules[rule]["miou"]
    cropping = scored(load_project(params_file), {"alpha": 0.0})
    assert cropping["refshapes"]["val"]["global_local"]["miou"] == written["refshapes"]["val"]["cropping"]["miou"]
    with pytest.raises(ParameterError, match="k = 5"):
        scored(load_project(params_file), {"k": 5})


@pytest.mark.parametrize(
    ("section", "name", "value", "stage"),
    [
        ("index", "polygon_overlap", "reference", "pair"),
        ("index", "datasets", {"refshapes": {"split_by": "synth", "splits": ["val"]}}, "pair"),
        ("propose", "score_threshold", 0.2, "pair"),
        ("propose", "max_proposals", 7, "pair"),
        ("propose", "box", "tight", "pair"),
        ("encoders.vit", "precision", "bf16", "pair"),
        ("embed_masks", "masked_blocks", [2], "pair"),
        ("embed_masks", "fill", "mean", "pair"),
        ("embed_text", "template", "a {}", "pair"),
        ("score", "beta", 0.1, "score"),
        ("bootstrap", "seed", 7, "score"),
    ],
)
def test_any_changed_value_makes_the_numbers_stale(
    finished: tuple[Values, dict[str, Any]], tmp_path: Path, section: str, name: str, value: Any, stage: str
) -> None:
    values, file = copy.deepcopy(finished[0]) | {"root": "."}, tmp_path / "params.yaml"
    file.write_text(yaml.safe_dump(values))
    assert stale_line(load_project(file), stage) == ""
    lookup(section, values)[name] = value
    file.write_text(yaml.safe_dump(values))
    changed = lookup(section, load_project(file).values.model_dump(mode="json"))[name]
    assert f"{section}.{name} is {json.dumps(changed)} now" in stale_line(load_project(file), stage)


def test_show_draws_an_expression(finished: tuple[Values, dict[str, Any]], params_file: Path, tmp_path: Path) -> None:
    index = read_table(Path(finished[0]["data"], "index.h5"), "index")
    number = int(index["expression_id"][0])
    said = draw_expression(
        load_project(params_file), number, index.attrs["groups"][index["ref_group"][0]][0], False, tmp_path / "o.png"
    )
    assert index["expression_raw"][0] in said
    with Image.open(tmp_path / "o.png") as picture:
        assert picture.width >= 320
    with pytest.raises(ParameterError, match="no expression 123456789"):
        draw_expression(load_project(params_file), 123456789, None, False, tmp_path / "o.png")


def test_a_missing_input_names_file_and_remedy(profile: Values) -> None:
    with pytest.raises(StoreError, match=r"index\.h5.*make it again: glimpse repair .*index\.h5$"):
        run_stages(profile, "overlap")
