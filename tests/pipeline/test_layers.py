"""Imports run one way: pipeline -> stages -> store; stages do not import each other; light modules load no torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from pipeline.registry import STAGES, module_name
from store.fingerprint import import_closure

ROOT = Path(__file__).resolve().parents[2]
ALLOWED = {
    "store": {"store"},
    "stages": {"stages", "store"},
    "pipeline": {"pipeline", "stages", "store"},
    "glimpse": {"glimpse", "pipeline", "stages", "store"},
    "demo": {"demo", "stages", "store"},
}
FOREIGN = {
    "store": {"torch", "open_clip", "spacy", "dvc", "typer", "yaml", "dask"},
    "stages": {"dvc", "typer", "yaml", "dask", "os"},
}


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            names |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def sources() -> list[Path]:
    return [path for package in ALLOWED for path in sorted((ROOT / package).rglob("*.py"))]


@pytest.mark.parametrize("path", sources(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_imports_run_one_way(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    tops = {name.partition(".")[0] for name in imported(path)}
    assert not (tops & set(ALLOWED)) - ALLOWED[package]
    assert not tops & FOREIGN.get(package, set())


def test_the_modules_of_stages_are_the_stages_and_their_contract() -> None:
    """The folder is the diagram of the architecture."""
    assert {path.stem for path in (ROOT / "stages").glob("*.py")} - {"__init__"} == {*STAGES, "contract"}


def test_rooms_and_stages_do_not_import_a_stage() -> None:
    stages = set(map(module_name, STAGES))
    for path in (ROOT / "stages").rglob("*.py"):
        own = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        assert not imported(path) & (stages - {own}), f"{path} imports a stage"


def test_no_circle_of_files() -> None:
    modules = {".".join(path.relative_to(ROOT).with_suffix("").parts): imported(path) for path in sources()}
    edges = {name: [other for other in names if other in modules and other != name] for name, names in modules.items()}
    TopologicalSorter(edges).prepare()  # names the circle


@pytest.mark.parametrize(("stage", "other"), [("embed_masks", "stages/text"), ("embed_text", "stages/visual")])
def test_masks_and_texts_do_not_depend_on_each_others_code(stage: str, other: str) -> None:
    """A stage's results are computed again when code that it imports changes."""
    assert not [path for path in import_closure(module_name(stage)) if path.is_relative_to(ROOT / other)]


def test_every_stage_has_params_paths_and_run() -> None:
    for module in map(module_name, STAGES):
        tree = ast.parse((ROOT / (module.replace(".", "/") + ".py")).read_text())
        assert {"Params", "Paths", "run"} <= {
            n.name for n in tree.body if isinstance(n, ast.ClassDef | ast.FunctionDef)
        }


def test_checking_parameters_and_scoring_load_no_torch() -> None:
    code = (
        "import sys, pipeline.project, stages.score, stages.sweep, stages.report\n"
        "heavy = {'torch', 'open_clip', 'spacy', 'dask', 'dvc'} & set(sys.modules)\n"
        "sys.exit(f'loaded: {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_our_packages_come_from_this_repository() -> None:
    for package in ALLOWED:
        assert Path(__import__(package).__file__).resolve().is_relative_to(ROOT)


def test_every_stage_says_what_its_load_reads() -> None:
    """A worker that outlives a run would else go on with a file that was replaced."""
    for module in map(module_name, STAGES):
        tree = ast.parse((ROOT / (module.replace(".", "/") + ".py")).read_text())
        calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
        for call in calls:
            if isinstance(call.func, ast.Name) and call.func.id == "compute_missing":
                assert "reads" in {keyword.arg for keyword in call.keywords}, module
