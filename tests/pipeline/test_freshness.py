"""Stale numbers are told: digests along the whole chain, values of the profile, stages that have not run."""

from __future__ import annotations

import copy
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from pipeline import status
from pipeline.cli import app
from pipeline.freshness import ancestors, producers, reasons, stale_line
from pipeline.project import LoadedProject, load_project
from pipeline.registry import FILES, PER_ENCODER, STAGES, Instance, instances
from stages.clip.config import encoder_identity
from stages.text.spacy_model import spacy_digest
from store.errors import StoreError
from store.fingerprint import file_digest
from store.table import read_table, write_table
from tests.helpers import stores
from tests.helpers.documents import changed
from tests.helpers.profile import DVC_STAGES, demo_values, run_stages, unfold
from tests.helpers.stores import synthetic

Values = dict[str, Any]
LED_TO = {
    "index": {"proposals", "parse", "overlap", "heat_maps", "pairs"},
    "proposals": {"mask_features", "overlap", "heat_maps", "pairs"},
    "parse": {"text_features", "heat_maps"},
    "mask_features": {"pairs"},
    "text_features": {"pairs"},
    "overlap": {"pairs"},
    "heat_maps": {"pairs"},
    "pairs": {"scores"},
}
"""Output -> the outputs that name its digest, as the stages' ``run`` functions record it."""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a profile whose stages up to score have outputs."""
    folder = tmp_path_factory.mktemp("finished")
    values = demo_values(folder)
    clip = values["encoders"][values["encoder"]]
    encoder = encoder_identity(clip["model"], Path(clip["weights"]), clip["precision"])
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(stores, "ENCODER", encoder)  # the synthetic vectors are the demo's encoder's, as it were
        synthetic(folder / "data")
    run_stages(values, "pair", "score")
    return folder


@pytest.fixture
def values(finished: Path, tmp_path: Path) -> Values:
    """A copy of the finished profile."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    values = demo_values(tmp_path)
    Path(values["profile"]).write_text(yaml.safe_dump(values))
    return values


def of(stage: str) -> Instance:
    """A stage as DVC runs it for the main encoder."""
    return Instance(stage, "vit" if stage in PER_ENCODER else "")


def project(values: Values) -> LoadedProject:
    Path(values["profile"]).write_text(yaml.safe_dump(values))
    return load_project(Path(values["profile"]))


def test_nothing_is_stale_after_a_run(values: Values) -> None:
    for stage in ("pair", "score"):
        assert stale_line(project(values), stage) == ""


@pytest.mark.parametrize("output", LED_TO)
def test_another_output_is_told_by_all_that_was_made_from_it(values: Values, tmp_path: Path, output: str) -> None:
    if output == "pairs":
        values["profile"] = f"{tmp_path}/other.yaml"
        synthetic(tmp_path / "other", seed=1)
        run_stages({**values, "data": f"{tmp_path}/other", "metrics": f"{tmp_path}/other.json"}, "pair")
        shutil.copy(tmp_path / "other/pairs/vit.h5", tmp_path / "data/pairs/vit.h5")
    else:
        other = synthetic(tmp_path / "other", seed=1).paths[output]
        place = tmp_path / "data" / other.relative_to(tmp_path / "other")
        shutil.rmtree(place) if place.is_dir() else place.unlink()
        (shutil.copytree if other.is_dir() else shutil.copy)(other, place)
    made_by = producers()
    told = reasons(project(values))
    for field in LED_TO[output]:
        assert re.match(
            rf"{FILES[field].format(encoder='vit')} was made from another .*\b{output}\b", told[of(made_by[field])][0]
        ), field
    for stage in ("pair", "score"):
        assert "was made from another" in stale_line(project(values), stage)


def test_an_index_made_again_of_the_same_values_is_no_change(values: Values, tmp_path: Path) -> None:
    synthetic(tmp_path / "again")
    shutil.copy(tmp_path / "again/index.h5", tmp_path / "data/index.h5")
    assert stale_line(project(values), "score") == ""


@pytest.mark.parametrize(
    ("section", "name", "value", "was"),
    [
        ("score", "alpha", 0.5, "0.6"),
        ("score", "alpha_by_dataset", {"toy": 0.25}, "{}"),
        ("score", "empty", "skip", '"count"'),
        ("score", "top_n", 3, "0"),
        ("bootstrap", "resamples", 50, "1000"),
    ],
)
def test_another_value_of_the_profile_is_told(values: Values, section: str, name: str, value: Any, was: str) -> None:
    values[section][name] = value
    line = stale_line(project(values), "score")
    assert line.startswith(f"stale: {section}.{name} is {json.dumps(value)} now, was {was}; to renew: dvc repro ")
    assert stale_line(project(values), "pair") == "", "the pair table does not depend on it"


def test_values_of_the_stages_before_are_told_too(values: Values, tmp_path: Path) -> None:
    made = read_table(tmp_path / "data/proposals.h5", "proposals")
    config = {"source": "freesolo", "box": "reference", "short_side": 128}
    write_table(made.path, "proposals", made.columns, config, made.attrs["made_from"])
    for stage in ("pair", "score"):
        assert "stale: propose.short_side is 256 now, was 128;" in stale_line(project(values), stage)


@pytest.mark.parametrize(
    ("table", "name", "told"),
    [
        ("parse", "spacy_model", "parse.spacy_model names other contents now (en_core_web_sm)"),
        ("proposals", "input", "propose.input names other contents now"),
    ],
)
def test_a_model_is_compared_by_its_contents(values: Values, tmp_path: Path, table: str, name: str, told: str) -> None:
    made = read_table(tmp_path / f"data/{table}.h5", table)
    digests = {"spacy_model": spacy_digest("en_core_web_sm"), "input": file_digest(Path(values["propose"]["input"]))}
    for digest, stale in ((digests[name], False), ("f" * 64, True)):
        write_table(made.path, table, made.columns, {name: digest, "code": "c" * 64}, made.attrs["made_from"])
        assert (told in stale_line(project(values), "pair")) is stale
    values["parse"]["spacy_model"], values["propose"]["input"] = "no_such_model", "no/such/file"
    assert stale_line(project(values), "pair") == "", "a model that is not here cannot be compared"


def test_numbers_of_another_encoder_are_told(values: Values, tmp_path: Path) -> None:
    """The first line names the profile's encoder, and the numbers would be of the one before."""
    other = tmp_path / "other.safetensors"
    other.write_bytes(Path(values["encoders"][values["encoder"]]["weights"]).read_bytes())
    values["encoders"][values["encoder"]]["weights"] = str(other)
    assert stale_line(project(values), "pair") == "", "the same weights under another name"
    other.write_bytes(other.read_bytes()[:-1] + b"x")
    assert f"encoders.vit.weights names other contents now ({other})" in stale_line(project(values), "pair")
    values["encoders"][values["encoder"]]["precision"] = "bf16"
    assert reasons(project(values))[of("embed_text")] == [
        'encoders.vit.precision is "bf16" now, was "float32"',
        f"encoders.vit.weights names other contents now ({other})",
    ]


def test_stages_that_have_not_run_are_told_in_one_list(values: Values, tmp_path: Path) -> None:
    (tmp_path / "data/scores.h5").unlink()
    assert stale_line(project(values), "score").startswith("stale: score has not run here; to renew: dvc repro ")
    assert stale_line(project(values), "pair") == ""
    shutil.rmtree(tmp_path / "data")
    line = stale_line(project(values), "score")
    assert line.startswith(
        "stale: index, propose, embed_masks@vit, parse, embed_text@vit, overlap, heat@vit, pair@vit, score have not run here;"
    )


def test_a_metrics_file_of_another_run_is_told(values: Values, tmp_path: Path) -> None:
    file = tmp_path / "metrics.json"
    with changed(file) as metrics:
        metrics["toy"]["val"]["global_local"]["miou"] += 0.01
    assert "stale: metrics.json holds other numbers than the last run of score found" in stale_line(
        project(values), "score"
    )
    for damaged in ("{", "[1]", file.read_text().replace("0.", "0.1", 1)):
        file.write_text(damaged)
        assert re.search(r"metrics\.json: .*(damaged|no.* digest|found none)", stale_line(project(values), "score"))


def test_a_damaged_or_older_output_is_told(values: Values, tmp_path: Path) -> None:
    (tmp_path / "data/overlap.h5").write_bytes(b"no HDF5")
    manifest = tmp_path / "data/mask_features/vit/manifest.json"
    manifest.write_text(re.sub('"version":[0-9]+', '"version":1', manifest.read_text()))
    told = reasons(project(values))
    assert "overlap.h5: cannot be read" in told[of("overlap")][0]
    assert "expected table 'mask_features' version" in told[of("embed_masks")][0]
    (tmp_path / "data/scores.h5").write_bytes(b"no HDF5")
    assert "scores.h5: cannot be read" in reasons(project(values))[of("score")][0]


def test_many_reasons_stay_one_line(values: Values) -> None:
    values["score"] |= {"alpha": 0.5, "beta": 0.25, "top_n": 3, "min_area": 2}
    line = stale_line(project(values), "score")
    assert "; and 2 more (glimpse status --params " in line
    assert "\n" not in line


def test_the_graph_is_that_of_dvc(values: Values) -> None:
    """A stage comes after those whose outputs its dvc.yaml entry depends on, and after what they come after."""
    files = {
        unfold(out if isinstance(out, str) else next(iter(out)), values): stage
        for stage, entry in DVC_STAGES.items()
        for out in entry["outs"]
    }
    files |= {values["metrics"]: "score", f"{values['data']}/pairs": "pair"}
    direct = {
        stage: {files[dep] for dep in (unfold(d, values) for d in entry["deps"]) if dep in files}
        for stage, entry in DVC_STAGES.items()
    }
    for stage in STAGES:
        expected, waiting = set[str](), [stage]
        while waiting:
            waiting += (new := direct[waiting.pop()] - expected)
            expected |= new
        if stage != "variants":  # runs the stages before pair again, and reads their outputs by name
            found = ancestors(project(values), of(stage))
            assert {each.stage for each in found} == expected, stage


@pytest.mark.parametrize(
    ("words", "stage"),
    [(["score"], "pair"), (["sweep", "--points", "3"], "pair"), (["metrics"], "score"), (["show", "1000"], "score")],
)
def test_commands_that_print_numbers_say_so_in_their_second_line(
    values: Values, tmp_path: Path, words: list[str], stage: str
) -> None:
    command = [*words, "--params", values["profile"]]
    said = CliRunner().invoke(app, command).output.splitlines()
    assert said[0].startswith(f"profile {values['profile']}; data {values['data']}; encoder refshapes_clip")
    assert not any(line.startswith("stale") for line in said)
    shutil.rmtree(tmp_path / "data/text_features/vit")
    said = CliRunner().invoke(app, command).output.splitlines()
    assert said[1].startswith("stale: embed_text@vit has not run here; to renew: dvc repro ")


def dvc_says(monkeypatch: pytest.MonkeyPatch, **changes: str) -> None:
    monkeypatch.setattr(
        status,
        "dvc_states",
        lambda project: {
            **dict.fromkeys(instances(project.values.encoders), "up to date"),
            **{of(stage): state for stage, state in changes.items()},
        },
    )


def test_what_comes_after_a_stale_stage_waits_for_it(values: Values, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status, "reasons", lambda project: {each: [] for each in instances(project.values.encoders)})
    dvc_says(monkeypatch)
    assert set(status.states(project(values))[0].values()) == {"up to date"}
    dvc_says(monkeypatch, parse="changed deps: stages/parse.py modified")
    found, note = status.states(project(values))
    assert found[of("parse")] == "changed deps: stages/parse.py modified"
    for stage in ("embed_text", "pair", "variants", "score", "ablations", "sweep", "report"):
        assert found[of(stage)] == "waits for parse", stage
    for stage in ("index", "propose", "embed_masks", "overlap"):
        assert found[of(stage)] == "up to date", stage
    assert note == ""
    dvc_says(monkeypatch, parse="changed deps: x modified", overlap="changed deps: y modified")
    found, _ = status.states(project(values))
    assert found[of("embed_text")] == "waits for parse"
    assert found[of("report")] == "waits for parse, overlap"


def test_a_changed_value_is_named_where_dvc_says_only_that_the_command_changed(
    values: Values, monkeypatch: pytest.MonkeyPatch
) -> None:
    values["score"]["alpha"] = 0.5
    dvc_says(monkeypatch, score="changed command")
    assert status.states(project(values))[0][of("score")] == "score.alpha is 0.5 now, was 0.6"


def test_without_dvc_the_status_compares_outputs_and_values(values: Values, monkeypatch: pytest.MonkeyPatch) -> None:
    values["score"]["alpha"] = 0.5
    found, note = status.states(project(values))
    assert found[of("pair")] == "up to date"
    assert found[of("score")] == "score.alpha is 0.5 now, was 0.6"
    assert found[of("sweep")] == "has not run here"
    assert "whether code changed is not known: there is no " in note
    assert "dvc.yaml: DVC has recorded no run of this profile here" in note
    monkeypatch.setenv("COLUMNS", "160")
    done = CliRunner().invoke(app, ["status", "--params", values["profile"]])
    assert done.exit_code == 0
    assert "score.alpha is 0.5 now, was 0.6" in done.output
    assert note in done.output


def test_dvc_itself_failing_is_a_note(values: Values, tmp_path: Path) -> None:
    (tmp_path / "dvc.yaml").write_text("stages: [")
    (tmp_path / "dvc.lock").write_text("schema: '2.0'\n")
    with pytest.raises(StoreError, match=r"(?s)dvc status .* failed.*glimpse check --repair --params"):
        status.dvc_states(project(values))
    assert "dvc status" in status.states(copy.deepcopy(project(values)))[1]
