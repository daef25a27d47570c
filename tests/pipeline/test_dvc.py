"""dvc.yaml against the code: the stages, their dependencies, their arguments, and the demo's copy."""

from __future__ import annotations

import re

import pytest
import yaml

from pipeline.arguments import words_to_values
from pipeline.deps import code_deps, with_deps
from pipeline.project import load_project
from pipeline.registry import PER_ENCODER, STAGES, UP_TO_PAIR, stage_module
from pipeline.reruns import stage_values
from tests.helpers.profile import DVC_STAGES, FOREACH, ROOT, lookup, unfold, unfolded


def test_the_demo_has_a_byte_equal_copy() -> None:
    assert (ROOT / "demo/dvc.yaml").read_bytes() == (ROOT / "dvc.yaml").read_bytes()


def test_the_stages_are_the_dvc_stages() -> None:
    assert list(DVC_STAGES) == list(STAGES)
    assert all(stage["wdir"] == "${root}" for stage in DVC_STAGES.values())
    assert dict.fromkeys(PER_ENCODER, "${encoders}") == FOREACH


@pytest.mark.parametrize("name", STAGES)
def test_code_dependencies_are_the_import_closure(name: str) -> None:
    listed = [dep for dep in DVC_STAGES[name]["deps"] if dep.startswith(("stages", "store", "pipeline"))]
    assert listed == code_deps(name), "run: make deps"


def test_generated_dependencies_restore_what_was_removed_and_drop_what_is_not_imported() -> None:
    text = (ROOT / "dvc.yaml").read_text()
    assert with_deps(text) == text
    damaged = text.replace("      - stages/overlap.py\n", "      - stages/no_such.py\n      - store\n")
    assert damaged != text
    assert with_deps(damaged) == text


@pytest.mark.parametrize("file", ["params.yaml", "demo/params.yaml"])
@pytest.mark.parametrize("name", STAGES)
def test_arguments_and_files_fit_the_stage(name: str, file: str) -> None:
    """What the command passes, templates unfolded, is what the stage's Params and Paths know: all that the profile says."""
    values = yaml.safe_load((ROOT / file).read_text())
    stage = stage_module(name)
    words = unfolded(DVC_STAGES[name]["cmd"], values)
    given = words_to_values(words[words.index(name) + 1 :])
    place = {name: given.pop(name) for name in ("work", "profile", "extensions")}
    if name in PER_ENCODER:
        place["encoder"] = given.pop("encoder")
    given |= {name: value for name, value in place.items() if name in stage.Paths.model_fields}
    paths = {field: str(given.pop(field)) for field in stage.Paths.model_fields}
    stage.Params.model_validate(given)
    own = {**values, "item": lookup("item", values)}
    sections = [own[name] for name in re.findall(r"\$\{(\w+)[.}]", DVC_STAGES[name]["cmd"]) if name in own]
    leaves = {leaf for section in sections if isinstance(section, dict) for leaf, v in section.items() if v != []}
    assert leaves & set(stage.Params.model_fields) <= set(given), "a value of the profile does not reach the stage"
    outputs = {paths.pop(output) for output in stage.Paths.outputs}
    metrics = {unfold(next(iter(m)), values) for m in DVC_STAGES[name].get("metrics", [])}
    assert {unfold(out, values) for out in DVC_STAGES[name]["outs"]} | metrics == outputs
    inputs = {unfold(dep, values) for dep in DVC_STAGES[name]["deps"]} - {
        d for d in DVC_STAGES[name]["deps"] if d.endswith(".py")
    }
    if name == "variants":
        own = {stage: stage_values(load_project(ROOT / file), stage, {})[1] for stage in UP_TO_PAIR}
        paths = {n: path.relative_to(ROOT).as_posix() for files in own.values() for n, path in files.items()}
        del paths["weights"]  # the mask features depend on them
    # Records may be absent; images are checked by digest instead (docs/architecture.md).
    assert set(paths.values()) - {values["images"], f"{values['work']}/records"} <= inputs


def test_no_parameter_of_a_profile_is_ignored() -> None:
    """Every leaf of params.yaml appears in a command, so that a changed value reruns something."""
    commands = " ".join(stage["cmd"] for stage in DVC_STAGES.values()) + " ".join(
        str(s["deps"]) for s in DVC_STAGES.values()
    )
    named = set(re.findall(r"\$\{([^}]+)\}", commands)) | {"root", "profile", "encoders"}
    for section, value in yaml.safe_load((ROOT / "params.yaml").read_text()).items():
        leaves = {section} if not isinstance(value, dict) else {f"{section}.{leaf}" for leaf in value}
        assert section in named or leaves <= named, f"{section} is used by no command"
    load_project(ROOT / "params.yaml")


def test_params_are_listed_and_those_that_no_command_holds_are_dependencies() -> None:
    """`dvc params diff` and `dvc exp show` list the params file; variants and score read sections of it by themselves."""
    assert yaml.safe_load((ROOT / "dvc.yaml").read_text())["params"] == ["params.yaml"]
    sections = {section for stage in UP_TO_PAIR for section in STAGES[stage]} - {"encoders"}
    own = {"variants": sections | {"encoder", "encoders.${encoder}"}, "score": {"encoder", "encoders"}}
    for name, stage in DVC_STAGES.items():
        named = [section for group in stage.get("params", []) for section in group["${profile}"]]
        assert set(named) == own.get(name, set()), name


def test_dvc_stays_offline_links_and_stages_nothing_in_git() -> None:
    config = (ROOT / ".dvc/config").read_text()
    assert "analytics = false" in config
    assert "check_update = false" in config
    assert '"hardlink,symlink"' in config
    assert "autostage = false" in config
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    assert {"/data/", "/.work/"} <= set(ignored)


@pytest.mark.parametrize("file", ["params.yaml", "demo/params.yaml"])
@pytest.mark.parametrize("name", UP_TO_PAIR)
def test_the_wiring_passes_what_the_command_passes(name: str, file: str) -> None:
    """Stage variants runs other stages with the very values and files that dvc.yaml gives them."""
    values, stage = yaml.safe_load((ROOT / file).read_text()), stage_module(name)
    words = unfolded(DVC_STAGES[name]["cmd"], values)
    given = words_to_values(words[words.index(name) + 1 :])
    params, paths = stage_values(load_project(ROOT / file), name, {})
    assert stage.Params.model_validate({n: given[n] for n in given if n in stage.Params.model_fields}) == params
    assert {n: ROOT / str(given[n]) for n in stage.Paths.model_fields} == {n: ROOT / p for n, p in paths.items()}
