"""dvc.yaml against the code: the stages, their dependencies, their arguments, and the demo's copy."""

from __future__ import annotations

import re

import pytest
import yaml

from pipeline.deps import DEMOS, code_deps, for_profile, with_deps
from pipeline.project import load_project
from pipeline.registry import PER_ENCODER, STAGES, UP_TO_PAIR, module_name, stage_module
from pipeline.reruns import stage_values
from pipeline.setup.inputs import inputs
from store.errors import ParameterError
from store.fingerprint import import_closure
from tests.helpers.profile import DOCTOR, DVC_STAGES, FOREACH, ROOT, unfold


@pytest.mark.parametrize("folder", DEMOS)
def test_the_demos_have_the_same_stages_for_their_own_params_file(folder: str) -> None:
    text = (ROOT / "dvc.yaml").read_text()
    assert (ROOT / folder / "dvc.yaml").read_text() == for_profile(text, folder), "run: make deps"
    other = yaml.safe_load(for_profile(text, "mine/small"))["stages"]
    assert other["parse"]["wdir"] == "../.."
    assert other["parse"]["cmd"] == "python -m pipeline run parse --profile mine/small/params.yaml"
    assert list(other["parse"]["params"][0]) == ["mine/small/params.yaml"]


@pytest.mark.parametrize("folder", ["a b", "x;touch y", "../out", "/tmp", "", "-x", "a//b", "$(id)"])
def test_a_folder_that_a_shell_would_not_take_as_it_is_has_no_dvc_file(folder: str) -> None:
    with pytest.raises(ParameterError, match="its name stands in commands"):
        for_profile("", folder)


@pytest.mark.parametrize("name", STAGES)
def test_a_command_is_fixed_words(name: str) -> None:
    """DVC unfolds values into commands and gives them to a shell, names of keys and texts as they are."""
    assert DVC_STAGES[name]["cmd"] == f"python -m pipeline run {name} --profile params.yaml"
    assert DVC_STAGES[name]["wdir"] == "."


def test_the_stages_are_the_dvc_stages() -> None:
    assert list(DVC_STAGES) == list(STAGES)
    assert dict.fromkeys(PER_ENCODER, "${encoders}") == FOREACH


@pytest.mark.parametrize("file", ["params.yaml", "demo/params.yaml", "demo/methods/params.yaml"])
def test_the_first_stage_looks_for_every_input(file: str) -> None:
    """What a stage depends on and none makes, apart from the project's own files."""
    assert DOCTOR["cmd"] == "python -m pipeline doctor --dvc --params params.yaml"
    assert DOCTOR["outs"] == ["${data}/doctor.json"]
    assert DVC_STAGES["index"]["deps"][0] == "${data}/doctor.json"
    values = yaml.safe_load((ROOT / file).read_text())
    given = set()
    for key, encoder in values["encoders"].items():
        known = values | {"key": key, "item": encoder}
        given |= {unfold(dep, known) for stage in DVC_STAGES.values() for dep in stage["deps"] if "${" in dep}
    made = (values["data"] + "/", values["extensions"] + "/")
    named = {path.relative_to(ROOT).as_posix() for _, path, _ in inputs(load_project(ROOT / file))}
    assert named == {dep for dep in given if not dep.startswith(made) and dep != values["metrics"]}


@pytest.mark.parametrize("name", STAGES)
def test_code_dependencies_are_the_import_closure(name: str) -> None:
    listed = [dep for dep in DVC_STAGES[name]["deps"] if dep.startswith(("stages", "store", "pipeline"))]
    assert listed == code_deps(name), "run: make deps"
    for path in import_closure(module_name(name)):
        file = path.relative_to(ROOT)
        assert sum(each.as_posix() in listed for each in (file, *file.parents)) == 1, (
            f"once, by itself or by a folder: {file}"
        )


def test_a_folder_is_listed_where_a_stage_imports_all_its_code() -> None:
    """Else a change of what a stage does not import would make it run again."""
    folders = {dep for name in STAGES for dep in code_deps(name) if (ROOT / dep).is_dir()}
    assert {"stages/scoring/rules", "stages/views", "stages/datasets"} <= folders
    for name in sorted(set(STAGES) - {"variants"}):  # which reads what many stages import
        known = set(import_closure(module_name(name)))
        for folder in folders & set(code_deps(name)) - {"stages/clip"}:  # whose towers are named as text
            code = {path for path in (ROOT / folder).rglob("*.py") if path.read_text()}
            assert code <= known, (name, folder)


def test_generated_dependencies_restore_what_was_removed_and_drop_what_is_not_imported() -> None:
    text = (ROOT / "dvc.yaml").read_text()
    assert with_deps(text) == text
    damaged = text.replace("      - stages/overlap.py\n", "      - stages/no_such.py\n      - store\n")
    assert damaged != text
    assert with_deps(damaged) == text


@pytest.mark.parametrize("file", ["params.yaml", "demo/params.yaml", "demo/methods/params.yaml"])
@pytest.mark.parametrize("name", STAGES)
def test_files_fit_the_stage(name: str, file: str) -> None:
    """What DVC takes for a stage's inputs and outputs is what the stage's Paths are."""
    values, project, stage = yaml.safe_load((ROOT / file).read_text()), load_project(ROOT / file), stage_module(name)
    by_field = {n: path.relative_to(ROOT).as_posix() for n, path in stage_values(project, name, {})[1].items()}
    paths = {field: by_field[field] for field in stage.Paths.model_fields}
    outputs = {paths.pop(output) for output in stage.Paths.outputs}
    listed = [*DVC_STAGES[name]["outs"], *DVC_STAGES[name].get("metrics", [])]
    assert {unfold(out if isinstance(out, str) else next(iter(out)), values) for out in listed} == outputs
    inputs = {unfold(dep, values) for dep in DVC_STAGES[name]["deps"] if not dep.endswith(".py")}
    if name == "variants":
        own = {stage: stage_values(project, stage, {})[1] for stage in UP_TO_PAIR}
        paths = {n: path.relative_to(ROOT).as_posix() for files in own.values() for n, path in files.items()}
        del paths["weights"]  # the mask features depend on them
    # Records may be absent; images are checked by digest instead (docs/architecture.md).
    assert set(paths.values()) - {values["images"], f"{values['work']}/records"} <= inputs


@pytest.mark.parametrize("name", STAGES)
def test_every_value_that_a_stage_reads_is_a_dependency(name: str) -> None:
    """A changed value reruns what reads it: each leaf of the sections that STAGES gives the stage, and its paths."""
    (group,) = DVC_STAGES[name]["params"]
    listed = set(group["params.yaml"])
    assert {"work", "extensions"} <= listed
    assert ("images" in listed) == ("images" in stage_module(name).Paths.model_fields)
    read = {*stage_module(name).Params.model_fields, *stage_module(name).Paths.model_fields}
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    for section in STAGES[name]:
        if section == "encoders":
            assert "encoders.${key}" in listed
        elif section not in listed:
            assert {f"{section}.{leaf}" for leaf in values[section] if leaf in read} <= listed, section
    if name == "variants":  # it runs the stages up to pair again
        sections = {section for stage in UP_TO_PAIR for section in STAGES[stage]} - {"encoders"}
        assert sections | {"encoder", "encoders.${encoder}"} <= listed
    if name == "score":  # it reads the pair tables of all encoders that the file names
        assert {"encoder", "encoders"} <= listed


def test_no_parameter_of_a_profile_is_ignored() -> None:
    """Every section of params.yaml is a dependency or stands in one, so that a changed value reruns something."""
    listed = {name.partition(".")[0] for stage in DVC_STAGES.values() for name in stage["params"][0]["params.yaml"]}
    files = " ".join(str([s["deps"], s["outs"], s.get("metrics")]) for s in DVC_STAGES.values())
    named = listed | set(re.findall(r"\$\{(\w+)[.}]", files)) | {"root", "profile"}
    assert set(yaml.safe_load((ROOT / "params.yaml").read_text())) <= named
    load_project(ROOT / "params.yaml")


def test_the_params_file_is_listed_for_dvc_params_diff() -> None:
    assert yaml.safe_load((ROOT / "dvc.yaml").read_text())["params"] == ["params.yaml"]


def test_dvc_stays_offline_links_and_stages_nothing_in_git() -> None:
    config = (ROOT / ".dvc/config").read_text()
    assert "analytics = false" in config
    assert "check_update = false" in config
    assert '"hardlink,symlink"' in config
    assert "autostage = false" in config
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    assert {"/data/", "/.work/"} <= set(ignored)
