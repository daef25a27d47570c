"""`import glimpse`: its surface, its tables as data frames, its numbers, and the notebooks that show it."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco

import glimpse
from demo.refshapes import write_benchmark
from store.table import read_table
from tests.helpers.documents import data_sets
from tests.helpers.profile import ROOT, demo_values, run_stages

NOTEBOOKS = sorted((ROOT / "docs/notebooks").glob("*.ipynb"))
SURFACE = {
    *("BusyError", "CodeError", "DataError", "GlimpseError", "ParameterError", "StoreError", "TransientError", "WeightsError"),
    *("Dots", "Filters", "Frames", "FreeSolo", "MaskedClip", "Outcome", "PairTable", "Project", "Scoring", "Segmentation"),
    *("bootstrap", "fused_scores", "iou_of", "load_clip", "load_pairs", "load_spacy", "open_project", "outcome_of_choice"),
    *("outcome_of_random", "segment", "summarise", "__version__"),
}  # fmt: skip


@pytest.fixture(scope="module")
def params(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The params file of a finished run on an image a split."""
    folder = tmp_path_factory.mktemp("api")
    write_benchmark(folder / "refer", images_per_split=1)
    values = demo_values(folder)
    values["propose"]["max_proposals"] = 12
    run_stages(values, "index", "propose", "embed_masks", "parse", "embed_text", "overlap", "heat", "pair", "score")
    return Path(values["profile"])


def test_the_surface() -> None:
    """What goes from here breaks the code of users: say so in CHANGELOG.md."""
    assert set(glimpse.__all__) == SURFACE
    assert set(dir(glimpse)) == SURFACE
    assert all(getattr(glimpse, name) is not None for name in SURFACE)
    with pytest.raises(AttributeError, match="module 'glimpse' has no attribute 'nothing'"):
        glimpse.nothing  # noqa: B018


def test_opening_a_project_loads_no_network_and_no_pandas() -> None:
    code = (
        "import sys, glimpse; glimpse.open_project('demo/params.yaml')\n"
        "heavy = {'torch', 'open_clip', 'spacy', 'pandas', 'dvc'} & set(sys.modules)\n"
        "sys.exit(f'loaded: {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_frames_join_expressions_with_refs_and_images(params: Path) -> None:
    project = glimpse.open_project(params)
    index, frame = read_table(project.index.path, "index"), project.index.to_pandas()
    assert len(frame) == len(index["expression_id"])
    for row in (0, len(frame) // 2, len(frame) - 1):
        ref = index["expression_ref"][row]
        image, group = index["ref_image"][ref], index.attrs["groups"][index["ref_group"][ref]]
        line = frame.loc[row]
        assert [line["dataset"], line["split"]] == group
        assert line["expression_raw"] == index["expression_raw"][row]
        assert (line["ref_id"], line["image_name"]) == (index["ref_id"][ref], index["image_name"][image])
        assert [line["image_size_0"], line["image_size_1"]] == index["image_size"][image].tolist()
        assert line["ref_mask"] == index["ref_mask"][ref]
    assert len(project.index.to_pandas("images")) == len(index["image_name"])
    assert len(project.index.to_pandas("refs")) == len(index["ref_id"])


def test_frames_of_proposals_and_pairs_name_their_owners(params: Path) -> None:
    project = glimpse.open_project(params)
    proposals, pairs = project.proposals.to_pandas(), project.pairs.to_pandas()
    offsets, images = project.pairs["expression_offsets"], project.pairs["expression_image"]
    for row, (start, stop) in enumerate(pairwise(offsets)):
        assert set(pairs["expression"][start:stop]) <= {row}
        own = pairs["proposal"][start:stop]
        assert (proposals["image"][own] == images[row]).all()
        assert len(own) == (proposals["image"] == images[row]).sum()
    sizes = project.index.to_pandas("images")[["image_size_0", "image_size_1"]].to_numpy()
    for _, line in proposals.iterrows():
        rle = {"size": sizes[line["image"]].tolist(), "counts": line["mask"]}
        assert coco.area(rle) == line["area"]
    with pytest.raises(glimpse.ParameterError, match=r"table parse has none called 'pairs'.*known: expressions"):
        project.parse.to_pandas("pairs")


def test_scores_and_metrics_are_those_of_the_run(params: Path) -> None:
    project = glimpse.open_project(params)
    pairs, scoring = project.load_pairs(), project.loaded.values.score
    chosen = pairs.choice(pairs.dots.scores(pairs.alphas(scoring), scoring.beta), scoring)
    frame = project.scores.to_pandas()
    np.testing.assert_array_equal(frame["chosen.global_local"], chosen)
    outcome = pairs.outcome(chosen)
    metrics = data_sets(project.loaded.path(project.loaded.values.metrics))
    assert project.metrics() == metrics
    for group, (dataset, split) in enumerate(pairs.groups):
        found = glimpse.summarise(outcome.at(pairs.members(group)))
        assert found == {name: metrics[dataset][split]["global_local"][name] for name in found}
    assert project.encoders == ["vit"]
    with pytest.raises(glimpse.ParameterError, match="no encoder 'rn50'; known: vit"):
        project.load_pairs("rn50")


def test_the_params_file_is_that_of_every_command(params: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLIMPSE_PARAMS", str(params))
    assert glimpse.open_project().loaded.file == params
    assert glimpse.open_project().params["encoder"] == "vit"
    with pytest.raises(glimpse.ParameterError, match=r"nowhere\.yaml: expected a params file"):
        glimpse.open_project("nowhere.yaml")


def run_cells(notebook: Path) -> list[Any]:
    """The values that the code cells end with."""
    names: dict[str, Any] = {}
    values = []
    for cell in json.loads(notebook.read_text())["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [], "committed without outputs: numbers are those of the reader's own run"
            tree = ast.parse("".join(cell["source"]))
            last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
            exec(compile(tree, notebook.name, "exec"), names)
            if isinstance(last, ast.Expr):
                values.append(eval(compile(ast.Expression(last.value), notebook.name, "eval"), names))
    return values


def test_notebook_own_rule(params: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLIMPSE_PARAMS", str(params))
    (table,) = run_cells(ROOT / "docs/notebooks/own_rule.ipynb")
    metrics = glimpse.open_project().metrics()
    for dataset, split in table.index:
        expected = round(100 * metrics[dataset][split]["global_local"]["miou"], 1)
        assert table.loc[(dataset, split), "global_local"] == pytest.approx(expected)
    assert table["own"].between(0, 100).all()


def test_notebook_error_analysis(params: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLIMPSE_PARAMS", str(params))
    shares, by_category, by_words, worst = run_cells(ROOT / "docs/notebooks/error_analysis.ipynb")
    for table in (shares, by_category, by_words):
        np.testing.assert_allclose(table.sum(axis=1), 100, atol=0.2)  # each is rounded to 0.1
    assert (np.diff(worst["choice_error"]) <= 0).all()
    assert {file.name for file in NOTEBOOKS} == {"own_rule.ipynb", "error_analysis.ipynb"}


def test_the_documented_calls_work(params: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every Python block of docs/api.md, in order, on this run; the lines about another encoder apart."""
    from PIL import Image

    monkeypatch.setenv("GLIMPSE_PARAMS", str(params))
    text = (ROOT / "docs/api.md").read_text()
    blocks = [part.partition("```")[0] for part in text.split("```python\n")[1:]]
    project = glimpse.open_project()
    name = project.index.to_pandas("images")["image_name"][0]
    with Image.open(project.loaded.path(project.loaded.values.images, name)) as picture:
        names: dict[str, Any] = {"image": picture.convert("RGB")}
    for block in blocks:
        exec(block.replace('"demo/params.yaml"', "").replace('pairs_of("resnet")', 'pairs_of("vit")'), names)
    assert names["result"].proposals.masks.shape[0] == len(names["result"].scores)
    assert (names["rows"] == names["pairs"].members(0)).all()
