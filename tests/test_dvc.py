"""dvc.yaml against the code: the ten stages, their dependencies, their arguments, and the demo's copy."""

from __future__ import annotations

import re

import pytest
import yaml

from pipeline.arguments import words_to_values
from pipeline.project import load_project
from pipeline.stage_table import MODULES, stage_module
from store.fingerprint import import_closure
from tests.profile import ROOT, STAGES, unfold, unfolded


def test_the_demo_has_a_byte_equal_copy() -> None:
    assert (ROOT / "demo/dvc.yaml").read_bytes() == (ROOT / "dvc.yaml").read_bytes()


def test_the_ten_stages_are_the_dvc_stages() -> None:
    assert list(STAGES) == list(MODULES)
    assert all(stage["wdir"] == "${root}" for stage in STAGES.values())


@pytest.mark.parametrize("name", MODULES)
def test_code_dependencies_are_the_import_closure(name: str) -> None:
    closure = {path.relative_to(ROOT).as_posix() for path in import_closure(MODULES[name])}
    if name == "report":
        closure |= {
            path.relative_to(ROOT).as_posix()
            for path in (ROOT / "stages/report").iterdir()
            if path.suffix in (".html", ".css", ".js")
        }
    listed = {dep for dep in STAGES[name]["deps"] if dep.startswith(("stages/", "store/", "pipeline/"))}
    assert listed == closure, f"deps of {name} in dvc.yaml should be:\n" + "\n".join(
        f"      - {p}" for p in sorted(closure)
    )


@pytest.mark.parametrize("file", ["params.yaml", "demo/params.yaml"])
@pytest.mark.parametrize("name", MODULES)
def test_arguments_and_files_fit_the_stage(name: str, file: str) -> None:
    """What the command passes, templates unfolded, is all that the stage's Params and Paths know, and no more."""
    values = yaml.safe_load((ROOT / file).read_text())
    stage = stage_module(name)
    words = unfolded(STAGES[name]["cmd"], values)
    given = words_to_values(words[words.index(name) + 1 :])
    given.pop("work"), given.pop("profile")
    paths = {field: str(given.pop(field)) for field in stage.Paths.model_fields}
    stage.Params.model_validate(given)
    outputs = {paths.pop(output) for output in stage.Paths.outputs}
    metrics = {unfold(next(iter(m)), values) for m in STAGES[name].get("metrics", [])}
    assert {unfold(out, values) for out in STAGES[name]["outs"]} | metrics == outputs
    inputs = {unfold(dep, values) for dep in STAGES[name]["deps"]} - {
        d for d in STAGES[name]["deps"] if d.endswith(".py")
    }
    # Records may be absent; images are checked by digest instead (docs/architecture.md).
    assert set(paths.values()) - {values["images"], f"{values['work']}/records"} <= inputs


def test_no_parameter_of_a_profile_is_ignored() -> None:
    """Every leaf of params.yaml appears in a command, so that a changed value reruns something."""
    commands = " ".join(stage["cmd"] for stage in STAGES.values()) + " ".join(str(s["deps"]) for s in STAGES.values())
    named = set(re.findall(r"\$\{([^}]+)\}", commands)) | {"root", "profile"}
    for section, value in yaml.safe_load((ROOT / "params.yaml").read_text()).items():
        leaves = {section} if not isinstance(value, dict) else {f"{section}.{leaf}" for leaf in value}
        assert section in named or leaves <= named, f"{section} is used by no command"
    load_project(ROOT / "params.yaml")


@pytest.mark.parametrize("name", MODULES)
def test_params_name_the_values_of_the_command(name: str) -> None:
    """`dvc params diff` and `dvc exp show` list what is under ``params``: it must be what the command passes."""
    passed = set(re.findall(r"\$\{([^}]+)\}", STAGES[name]["cmd"]))
    named = [section for group in STAGES[name].get("params", []) for section in group["${profile}"]]
    plain = {"data", "work", "images", "metrics"}
    assert set(named) == {value for value in passed if value not in plain | {"profile"}}


def test_dvc_stays_offline_and_links() -> None:
    config = (ROOT / ".dvc/config").read_text()
    assert "analytics = false" in config
    assert "check_update = false" in config
    assert '"hardlink,symlink"' in config
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    assert {"/data/", "/.work/"} <= set(ignored)
