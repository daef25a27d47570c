"""The package around the code: version, dependencies, documented names, doctests, and what make prints."""

from __future__ import annotations

import ast
import doctest
import importlib
import inspect
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.identity import DISTRIBUTION
from pipeline.runner import Execution
from store.errors import ParameterError
from tests.helpers.profile import ROOT

PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
DIRECT = [
    Requirement(text) for text in (*PROJECT["dependencies"], *(text for group in EXTRAS.values() for text in group))
]
OTHERS = [requirement for requirement in DIRECT if requirement.name != PROJECT["name"]]
PINS = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split())
PINNED = {canonicalize_name(name): Version(pin) for name, pin in PINS.items()}
SOURCES = [path for package in ("pipeline", "stages", "store") for path in sorted((ROOT / package).rglob("*.py"))]
WITH_EXAMPLES = [path for path in SOURCES if ">>> " in path.read_text()]


def test_one_version_everywhere() -> None:
    assert CliRunner().invoke(app, ["--version"]).output == f"glimpse {PROJECT['version']}\n"
    assert PROJECT["name"] == DISTRIBUTION
    assert version(DISTRIBUTION) == PROJECT["version"], "installed before the version changed; run: make env"
    headings = re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == "Unreleased"
    assert re.fullmatch(rf"{re.escape(PROJECT['version'])} \(\d{{4}}-\d\d-\d\d\)", headings[1])


@pytest.mark.parametrize("requirement", OTHERS, ids=lambda requirement: requirement.name)
def test_a_dependency_has_a_lower_bound_that_its_pin_meets_and_a_reason(requirement: Requirement) -> None:
    assert [bound.operator for bound in requirement.specifier] == [">="]
    assert PINNED[canonicalize_name(requirement.name)] in requirement.specifier
    lines = [
        line
        for line in (ROOT / "pyproject.toml").read_text().splitlines()
        if f'"{requirement}"' in line.replace(" ", "")
    ]
    assert len(lines) == 1
    assert re.search(r"# \S", lines[0]), lines[0]


def test_mypy_is_strict_and_each_relaxation_has_its_reason() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    settings = tomllib.loads(text)["tool"]["mypy"]
    assert settings["strict"] is True
    assert {"pipeline", "stages", "store"} <= set(settings["packages"])
    relaxing = text.split("[[tool.mypy.overrides]]\n")[1:]
    assert len(relaxing) <= 3
    assert all(entry.startswith("#") for entry in relaxing)


def required(names: list[Requirement]) -> Iterator[str]:
    """The names of ``names`` and of all that they need, as installed here."""
    waiting, seen = list(names), set[tuple[str, frozenset[str]]]()
    while waiting:
        requirement = waiting.pop()
        key = canonicalize_name(requirement.name), frozenset(requirement.extras)
        if key in seen:
            continue
        seen.add(key)
        yield key[0]
        try:
            needs = [Requirement(text) for text in distribution(requirement.name).requires or []]
        except PackageNotFoundError:
            continue  # for another platform
        extras = ("", *requirement.extras)
        waiting += [n for n in needs if n.marker is None or any(n.marker.evaluate({"extra": e}) for e in extras)]


@pytest.mark.skipif(os.uname().sysname != "Linux", reason="the pins are those of Linux, with torch's CUDA libraries")
def test_the_constraints_pin_what_is_installed_and_nothing_else() -> None:
    needed = set(required(OTHERS))
    assert set(PINNED) - needed == set(), "nothing installs these"
    assert needed - set(PINNED) - {"setuptools", "colorama", "pip"} == set(), "these have no pin"
    others = {name: (str(pin), version(name)) for name, pin in PINNED.items() if _installed(name) not in (None, pin)}
    assert others == {}, "another version is installed; run: make env"


def _installed(name: str) -> Version | None:
    try:
        return Version(version(name))
    except PackageNotFoundError:
        return None


def test_workers_without_dask_are_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    assert any(requirement.startswith("dask[distributed]") for requirement in EXTRAS["workers"])
    assert f"{DISTRIBUTION}[workers,demo,tables,siglip,transformers]" in EXTRAS["dev"], "make env installs all of it"
    monkeypatch.setattr("pipeline.runner.find_spec", lambda name: None)
    for options in ({"workers": 2}, {"scheduler": "tcp://127.0.0.1:8786"}):
        with (
            pytest.raises(ParameterError, match=r"need dask, which is not installed.*-e '\.\[workers\]'"),
            Execution(**options).executor(),
        ):
            pass
    with Execution().executor() as execute:
        assert callable(execute)


@pytest.mark.parametrize("path", WITH_EXAMPLES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_the_examples_in_docstrings_are_true(path: Path) -> None:
    module = importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
    found = doctest.testmod(module)
    assert found.attempted > 0
    assert found.failed == 0


def test_the_pure_functions_have_examples() -> None:
    wanted = {
        *("store/ragged.py", "store/agreement.py", "stages/scoring/metrics.py", "stages/scoring/fusion.py"),
        *("stages/text/words.py", "pipeline/arguments.py"),
    }
    assert wanted <= {path.relative_to(ROOT).as_posix() for path in WITH_EXAMPLES}


def documented() -> Iterator[tuple[str, Any]]:
    """The names that the section "Python API" of docs/architecture.md imports or calls, and what they are."""
    section = (ROOT / "docs/architecture.md").read_text().partition("## Python API")[2]
    tree = ast.parse(section.partition("```python")[2].partition("```")[0])
    known: dict[str, Any] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                known[alias.name] = getattr(importlib.import_module(str(node.module)), alias.name)
                yield alias.name, known[alias.name]
    classes: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call) and isinstance(node.targets[0], ast.Name):
            maker = node.value.func
            base = maker.value if isinstance(maker, ast.Attribute) else maker
            if isinstance(base, ast.Name) and base.id in known:
                classes[node.targets[0].id] = base.id
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            owner = classes.get(node.value.id, node.value.id)
            yield f"{owner}.{node.attr}", getattr(known[owner], node.attr)


def test_the_documented_names_exist_and_say_what_they_do() -> None:
    names = dict(documented())
    assert {"MaskedClip", "MaskedClip.global_features", "FreeSolo.from_state_dict", "fused_scores"} <= set(names)
    for name, value in names.items():
        assert callable(value), name
        assert (inspect.getdoc(value) or "").strip(), f"{name} has no docstring"


def test_pages_are_built_from_docstrings(tmp_path: Path) -> None:
    """As `make docs` does, of one module."""
    command = [sys.executable, "-m", "pdoc", "--docformat", "google", "--output-directory", str(tmp_path)]
    subprocess.run([*command, "store.ragged"], cwd=ROOT, check=True, capture_output=True)
    page = (tmp_path / "store/ragged.html").read_text()
    assert "offsets_of" in page
    assert "of rows with these lengths" in page


def make(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", "--old-file", ".venv/.installed", *words], cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_make_check_runs_every_tool_and_names_those_that_failed() -> None:
    done = make("check", "CHECKS='false first' 'echo seen' 'false third' 'true'")
    assert done.returncode != 0
    assert "\nseen\n" in done.stdout
    assert "make check failed in false first; false third" in done.stderr
    assert make("check", "CHECKS='true' 'echo seen'").returncode == 0


def test_make_check_has_all_tools_and_make_test_all_cores() -> None:
    planned = make("--dry-run", "check", "test", "fix", "docs").stdout
    for tool in ("ruff check .", "ruff format --check .", "mypy", "tests/pipeline/test_layers.py", "-n auto"):
        assert tool in planned
    for tool in ("ruff check --fix .", "ruff format .", "python -m pipeline.deps", "build/api"):
        assert tool in planned
    assert "/build/" in (ROOT / ".gitignore").read_text().splitlines()
