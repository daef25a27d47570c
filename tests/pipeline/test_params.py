"""Untrusted values -> typed ones: params files, command-line words, and what a fault says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.arguments import checked, split_values, words_to_values
from pipeline.project import load_project
from pipeline.registry import STAGES, stage_module
from pipeline.runner import Execution, run_words
from stages.embed_text import Params as TextParams
from stages.index import Params as IndexParams
from stages.score import Params as ScoreParams
from store.errors import ParameterError

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("file", ["params.yaml", "demo/params.yaml"])
def test_shipped_params_files_are_valid(file: str) -> None:
    project = load_project(ROOT / file)
    assert project.folder.resolve() == ROOT


def changed(tmp_path: Path, **sections: Any) -> Path:
    values = yaml.safe_load((ROOT / "demo/params.yaml").read_text())
    for section, change in sections.items():
        values[section] = {**values.get(section, {}), **change} if isinstance(change, dict) else change
    file = tmp_path / "params.yaml"
    file.write_text(yaml.safe_dump(values))
    return file


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        ({"score": {"alpa": 0.5}}, r"score\.alpa.*unknown.*did you mean 'alpha'"),
        ({"scor": {"alpha": 0.5}}, r"unknown parameter 'scor'; did you mean 'score'"),
        ({"score": {"alpha": 1.5}}, r"score\.alpha.*less than or equal to 1, got 1\.5"),
        ({"score": {"empty": "drop"}}, r"score\.empty.*'count' or 'skip'.*'drop'"),
        ({"embed_masks": {"masked_blocks": []}}, r"embed_masks\.masked_blocks.*at least 1 item"),
        ({"propose": {"short_side": "wide"}}, r"propose\.short_side.*integer.*'wide'"),
        ({"index": {"datasets": {"x": {"split": ["val"]}}}}, r"index\.datasets\.x"),
        ({"data": None}, r"data"),
    ],
)
def test_a_faulty_params_file_names_key_value_and_remedy(
    tmp_path: Path, sections: dict[str, Any], expected: str
) -> None:
    with pytest.raises(ParameterError, match=expected) as error:
        load_project(changed(tmp_path, **sections))
    assert "params.yaml" in str(error.value)


@pytest.mark.parametrize(("text", "expected"), [("a: [", "not YAML"), ("- a", "expected sections, got list")])
def test_a_params_file_of_another_form(tmp_path: Path, text: str, expected: str) -> None:
    file = tmp_path / "params.yaml"
    file.write_text(text)
    with pytest.raises(ParameterError, match=expected):
        load_project(file)
    with pytest.raises(ParameterError, match="found none; name it with --params"):
        load_project(tmp_path / "none.yaml")


def test_words_unfold_as_dvc_writes_them() -> None:
    words = [
        "--alpha",
        "0.5",
        "--ks",
        "1",
        "2",
        "--datasets.refcoco+.split_by",
        "unc",
        "--datasets.refcoco+.splits",
        "val",
        "testA",
        "--shift=-3",
    ]
    assert words_to_values(words) == {
        "alpha": "0.5",
        "ks": ["1", "2"],
        "datasets": {"refcoco+": {"split_by": "unc", "splits": ["val", "testA"]}},
        "shift": "-3",
    }


@pytest.mark.parametrize(
    ("words", "expected"),
    [(["0.5"], "expected a name"), (["--alpha"], "expected a value"), (["--a", "1", "--a", "2"], "given twice")],
)
def test_faulty_words(words: list[str], expected: str) -> None:
    with pytest.raises(ParameterError, match=expected):
        words_to_values(words)


def test_a_list_may_be_one_value() -> None:
    params = checked(
        IndexParams, words_to_values(["--datasets.a.split_by", "unc", "--datasets.a.splits", "val"]), "index"
    )
    assert params.datasets["a"].splits == ["val"]


def test_a_misspelt_stage_argument_names_the_nearest() -> None:
    with pytest.raises(ParameterError, match="score: unknown parameter 'beta_'; did you mean 'beta'"):
        run_words("score", ["--beta_", "0.5"])
    with pytest.raises(ParameterError, match=r"score\.pair_tables: expected a value, got none"):
        run_words("score", ["--work", "w"])
    with pytest.raises(ParameterError, match=r"sweep"):
        split_values({"resamples": 3}, (stage_module("sweep").Params,), "sweep")


@pytest.mark.parametrize("template", ["", "no place", "{} and {}", "{x}", "{} {0}"])
def test_a_template_has_one_place(template: str) -> None:
    with pytest.raises(ParameterError, match=r"exactly one \{\}"):
        checked(TextParams, {"template": template}, "embed_text")


def test_execution_values_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLIMPSE_BATCH", "7")
    assert Execution.from_environment().batch == 7
    monkeypatch.setenv("GLIMPSE_BATCH", "0")
    with pytest.raises(ParameterError, match=r"GLIMPSE_\*\.batch.*greater than or equal to 1"):
        Execution.from_environment()


def test_a_device_that_is_not_there_is_one_message(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for device in ("gpu", "cuda:99"):
        monkeypatch.setenv("GLIMPSE_DEVICE", device)
        with pytest.raises(ParameterError, match=f"GLIMPSE_DEVICE: expected a torch device .* got '{device}'"):
            Execution.from_environment().check_device()


def test_a_stage_checks_the_whole_params_file(tmp_path: Path) -> None:
    file = changed(tmp_path, embed_tekst={"template": "{}"})
    with pytest.raises(ParameterError, match="unknown parameter 'embed_tekst'; did you mean 'embed_text'"):
        run_words("score", ["--profile", str(file), "--work", str(tmp_path)])


def test_every_parameter_says_what_it_is() -> None:
    for name in STAGES:
        for field, info in stage_module(name).Params.model_fields.items():
            assert info.description, f"{name}.{field}"


def test_per_dataset_alpha_names_an_unknown_dataset() -> None:
    params = checked(ScoreParams, {"alpha_by_dataset": {"refcocg": 0.5}}, "score")
    with pytest.raises(ParameterError, match="no data set 'refcocg'; did you mean 'refcocog'"):
        params.alpha_of([("refcocog", "val")])
    assert checked(ScoreParams, {"alpha_by_dataset": {"refcocog": 0.25}}, "score").alpha_of(
        [("refcocog", "val"), ("refcoco", "val")]
    ) == [0.25, 0.95]
    with pytest.raises(ParameterError, match=re.escape("alpha_by_dataset.refcocog")):
        checked(ScoreParams, {"alpha_by_dataset": {"refcocog": 2}}, "score")
