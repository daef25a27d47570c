"""``glimpse export --format coco``: pycocotools alone makes our numbers again, and what is refused."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as masks
from pycocotools.coco import COCO

from pipeline.exports import coco
from pipeline.exports.predictions import predictions
from store.errors import ParameterError, StoreError
from store.table import read_table, write_table
from tests.helpers.profile import ROOT
from tests.helpers.results import (
    FAULT,
    GROUPS,
    MISSING,
    NONE_EVALUATED,
    evaluated_by_coco,
    folder_of,
    glimpse,
    metrics_of,
    results_run,
    rows_of,
)
from tests.helpers.stores import Synthetic


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Synthetic:
    return results_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(
    scope="module", params=[{"empty": "skip"}, {"min_score": 0.5}, {"min_area": 20, "empty": "skip"}, {"top_n": 1}]
)
def varied(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Synthetic:
    """Runs in which filters leave expressions without a choice, and both ways to count these."""
    return results_run(
        tmp_path_factory.mktemp("varied"),
        alpha_by_dataset={"toy": 0.2},
        alpha_by_encoder={"second": 0.1},
        k=1,
        **request.param,
    )


def exported(made: Synthetic, out: Path, *words: str) -> str:
    return glimpse(made, "export", "--format", "coco", "--out", out, *words).output


def assert_same_numbers(made: Synthetic, name: str, out: Path) -> None:
    exported(made, out, "--rule", name)
    found, expected = evaluated_by_coco(out, out.with_name(f"{out.stem}.truth.json")), metrics_of(made, name)
    assert sum(own["n"] for own in found.values()) > 2
    for group, own in found.items():
        assert own["n"] == expected[group]["n"]
        for metric in ("oiou", "miou", "p50"):
            assert own[metric] == pytest.approx(expected[group][metric], abs=1e-6)


@pytest.mark.parametrize("rule", ["global_local", "cropping", "vit:global", "second:global_local", "upper_bound"])
def test_pycocotools_alone_gives_our_numbers(made: Synthetic, rule: str, tmp_path: Path) -> None:
    assert_same_numbers(made, rule.removeprefix("vit:"), tmp_path / "results.json")


@pytest.mark.parametrize("rule", ["global_local", "second:cropping"])
def test_the_numbers_of_other_values_and_filters(varied: Synthetic, rule: str, tmp_path: Path) -> None:
    assert_same_numbers(varied, rule, tmp_path / "results.json")


def test_every_expression_is_a_row_with_its_ids_and_reason(made: Synthetic, tmp_path: Path) -> None:
    said = exported(made, tmp_path / "all.json")
    rows, index = rows_of(tmp_path / "all.json"), read_table(made.paths["index"], "index")
    assert [row["expression_id"] for row in rows] == index["expression_id"].tolist()
    chosen = read_table(made.paths["scores"], "scores")["chosen.global_local"].tolist()
    for e, row in enumerate(rows):
        ref, image = made.ref[e], made.image_of(e)
        assert (row["ref_id"], row["image_id"], row["image"]) == (100 + ref, image, f"bild_{image}_é.png")
        assert (row["dataset"], row["split"]) == GROUPS[made.ref_group[ref]]
        assert (row["proposal"], row["rule"], row["category"]) == (chosen[e], "global_local", "thing")
        mask = masks.decode(row["segmentation"])
        expected = made.proposals[image][chosen[e]] if chosen[e] >= 0 else np.zeros(mask.shape)
        assert (mask == expected).all()
        if image == MISSING:
            assert (row["state"], row["status"], row["counted"]) == ("unreadable image", FAULT, False)
        elif (row["dataset"], row["split"]) == NONE_EVALUATED:
            assert (row["state"], row["counted"]) == ("faulty sentence", False)
        elif made.truth[ref] is None:
            assert (row["state"], row["counted"]) == ("no ground truth", False)
        elif not len(made.proposals[image]):
            assert (row["state"], row["status"], row["counted"]) == ("no proposals", "nothing found", True)
            assert (row["score"], row["proposal"]) == (0.0, -1)
        else:
            assert (row["state"], row["status"], row["counted"]) == ("", "", True)
    without, lost = sum(position < 0 for position in chosen), sum(not row["counted"] for row in rows)
    assert f"{len(rows)} expressions, {without} without a choice, not evaluated: {lost} of {len(rows)} (" in said


def test_the_score_is_the_rules_own(made: Synthetic, tmp_path: Path) -> None:
    """Of the first rule as the scores table holds it."""
    exported(made, tmp_path / "results.json")
    scores, offsets = (
        read_table(made.paths["scores"], "scores"),
        read_table(made.paths["pairs"], "pairs")["expression_offsets"],
    )
    for e, row in enumerate(rows_of(tmp_path / "results.json")):
        if row["proposal"] >= 0:
            assert row["score"] == scores["score"][offsets[e] + row["proposal"]]


def test_a_choice_is_missing_where_filters_leave_nothing(tmp_path: Path) -> None:
    made = results_run(tmp_path / "run", min_score=0.5)
    exported(made, tmp_path / "results.json")
    left = [row for row in rows_of(tmp_path / "results.json") if row["proposal"] < 0 and not row["state"]]
    assert left
    assert all("no proposal is left by the filters" in row["status"] and row["counted"] for row in left)


def test_one_data_set_and_one_split(made: Synthetic, tmp_path: Path) -> None:
    exported(made, tmp_path / "a.json", "--dataset", "toy")
    assert {row["dataset"] for row in rows_of(tmp_path / "a.json")} == {"toy"}
    exported(made, tmp_path / "b.json", "--split", "val")
    assert {(row["dataset"], row["split"]) for row in rows_of(tmp_path / "b.json")} == {
        ("toy", "val"),
        ("other", "val"),
    }
    exported(made, tmp_path / "c.json", "--dataset", "toy", "--split", "testA")
    rows = rows_of(tmp_path / "c.json")
    assert rows, "a split without an evaluated expression is written too"
    assert not any(row["counted"] for row in rows)
    assert len(COCO(str(tmp_path / "c.truth.json")).loadRes(str(tmp_path / "c.json")).anns) == len(rows)


def test_image_ids_that_coincide(made: Synthetic, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of two data sets that number their images apart: results are still told by their number, and a note says so."""

    def coinciding(*arguments: Any) -> list[Any]:
        return [dataclasses.replace(each, image_id=each.image_id % 2) for each in predictions(*arguments)]

    assert "stand for several images" not in exported(made, tmp_path / "apart.json")
    monkeypatch.setattr(coco, "predictions", coinciding)
    assert "2 image ids stand for several images (the first is 0)" in exported(made, tmp_path / "results.json")
    found = evaluated_by_coco(tmp_path / "results.json", tmp_path / "results.truth.json")
    for group, own in metrics_of(made, "global_local").items():
        assert found[group]["miou"] == pytest.approx(own["miou"], abs=1e-6)


def test_the_truth_is_that_of_the_annotations(made: Synthetic, tmp_path: Path) -> None:
    exported(made, tmp_path / "results.json")
    content = json.loads((tmp_path / "results.truth.json").read_text())
    assert content["categories"] == [{"id": 1, "name": "thing"}]
    for e, row in enumerate(content["annotations"]):
        truth = made.truth[made.ref[e]]
        assert row["id"] == e + 1
        assert row["area"] == (0 if truth is None else truth.sum())
        assert (masks.decode(row["segmentation"]) == (0 if truth is None else truth)).all()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--format", "coca"], "--format: no export format 'coca'; did you mean 'coco'"),
        (["--rule", "globl"], r"--rule: .*no choices of 'globl'; did you mean 'global'"),
        (["--rule", "random"], "--rule: .*the random rule is an expectation and chooses nothing"),
        (["--rule", "third:global"], "--rule: .*no choices of 'third:global'"),
        (["--rule", "other/params.yaml:global"], "--rule: expected RULE or ENCODER:RULE, .* named by --params"),
        (["--dataset", "toi"], "--dataset: no dataset 'toi'; did you mean 'toy'"),
        (["--dataset", "other", "--split", "testA"], "--split: no split 'testA'; known: val"),
        (["--out", "."], r"--out: expected a file to write, \. is a folder"),
        (["--format", "masks", "--out", "pyproject.toml"], "--out: expected a folder that is new or empty, pyproject"),
        (["--format", "masks", "--out", "."], r"--out: expected a folder that is new or empty, \. is not"),
    ],
)
def test_what_is_refused(made: Synthetic, words: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match=message):
        exported(made, tmp_path / "results.json", *words)
    assert not list(tmp_path.iterdir())


def test_choices_that_are_not_the_rules_are_refused(tmp_path: Path) -> None:
    made = results_run(tmp_path / "run")
    file = made.paths["scores"]
    table = read_table(file, "scores")
    attrs = {name: table.attrs[name] for name in ("config", "made_from", "rules", "metrics", "encoders")}
    for name in ("global", "second:cropping"):
        rows = table[f"chosen.{name}"].copy()
        place = int(np.flatnonzero(rows == 0)[0])
        rows[place] = 1
        write_table(file, "scores", table.columns | {f"chosen.{name}": rows}, **attrs)
        with pytest.raises(
            StoreError, match=rf"rule {name} makes .* 1 of {len(rows)} expressions, the first is row {place}"
        ):
            exported(made, tmp_path / "results.json", "--rule", name)
    config = attrs["config"] | {"alpha": 7.0}
    write_table(file, "scores", table.columns, **(attrs | {"config": config}))
    with pytest.raises(StoreError, match="its values are not those of this version of stage score"):
        exported(made, tmp_path / "results.json")
    other = attrs | {"made_from": {**attrs["made_from"], "pairs@second": "0" * 64}}
    write_table(file, "scores", table.columns, **other)
    with pytest.raises(StoreError, match=r"was made from another pairs@second than .*second\.h5"):
        exported(made, tmp_path / "results.json", "--rule", "second:global")
    exported(made, tmp_path / "results.json", "--rule", "global")
    assert folder_of(made).is_dir()


def test_an_extension_adds_a_form(made: Synthetic, tmp_path: Path) -> None:
    """The file that CONTRIBUTING.md shows, in a room of the extensions folder; its name is then a format."""
    shown = re.search(
        r"```python\n(# extensions/exports/ids\.py\n.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.S
    )
    assert shown
    folder = folder_of(made) / "extensions/exports"
    folder.mkdir(parents=True)
    (folder / "ids.py").write_text(shown[1])
    words = ("export", "--format", "ids", "--out", tmp_path / "ids.txt")
    try:
        glimpse(made, *words)
        chosen = read_table(made.paths["scores"], "scores")["chosen.global_local"]
        assert (tmp_path / "ids.txt").read_text().split() == [str(1000 + e) for e in np.flatnonzero(chosen >= 0)]
    finally:
        (folder / "ids.py").unlink()
        glimpse(made, "methods", "--json")
    with pytest.raises(ParameterError, match="no export format 'ids'"):
        glimpse(made, *words)


def test_the_recipe_of_the_docs(made: Synthetic, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As docs/results.md shows it, it prints the numbers of split val; toy has one of its own."""
    exported(made, tmp_path / "results.json", "--dataset", "toy", "--rule", "cropping")
    monkeypatch.chdir(tmp_path)
    (recipe,) = re.findall(r"```python\n(from pycocotools.*?)```", (ROOT / "docs/results.md").read_text(), re.S)
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(recipe, {})
    found = re.search(r"oIoU (\S+) mIoU (\S+) of (\d+)", said.getvalue())
    expected = metrics_of(made, "cropping")["toy", "val"]
    assert found
    assert [float(found[1]), float(found[2])] == pytest.approx([expected["oiou"], expected["miou"]], abs=1e-6)
    assert int(found[3]) == expected["n"]
