"""Stage variants: each switch's pair table is that of a profile with that value, and costs only what depends on it."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from demo.refshapes import write_benchmark
from stages.scoring.fusion import first_best
from stages.scoring.table import load_pairs
from stages.variants import Switch
from store.errors import ParameterError, StoreError
from store.table import read_table, write_table
from tests.helpers.documents import changed, data_sets
from tests.helpers.profile import demo_values, run_stages

UP_TO_PAIRS = ("index", "propose", "embed_masks", "parse", "embed_text", "overlap", "heat", "pair")
SWITCHES = list(Switch.__args__)  # type: ignore[attr-defined]
TURNED: dict[str, list[tuple[str, str, str]]] = {
    "polygon_overlap": [("index", "polygon_overlap", "reference")],
    "box": [("propose", "box", "tight")],
    "fill": [("embed_masks", "fill", "mean")],
    "antialias": [("embed_masks", "antialias", "always")],
    "preprocess": [("embed_masks", "preprocess", "clip")],
    "release": [("index", "polygon_overlap", "reference"), ("embed_masks", "antialias", "never")],
    "template1": [("embed_text", "template", "a {} here")],
}
TEMPLATES = ["a {} here", "{}, 'quoted' and more"]


@pytest.fixture(scope="module")
def profile(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """One image of each split, objects with parts that overlap, run through all stages with every switch."""
    folder = tmp_path_factory.mktemp("variants")
    write_benchmark(folder / "refer", images_per_split=1)
    values = demo_values(folder)
    values["index"]["datasets"] = {"refshapes": {"split_by": "synth", "splits": ["testA", "testB"]}}
    for file in folder.glob("refer/*/instances.json"):
        instances = json.loads(file.read_text())
        for annotation in instances["annotations"]:
            x, y, width, height = annotation["bbox"]
            half = [x, y, x + width / 2, y, x + width / 2, y + height, x, y + height]
            annotation["segmentation"] = [annotation["segmentation"], half]
        file.write_text(json.dumps(instances))
    values["variants"] |= {"switches": SWITCHES, "templates": TEMPLATES}
    values["ablations"] = {"top_ns": [], "min_areas": [], "min_scores": []}
    run_stages(values, *UP_TO_PAIRS)
    return values


@pytest.fixture(scope="module")
def record(profile: dict[str, Any]) -> dict[str, Any]:
    return run_stages(profile, "variants")["variants"]


@pytest.mark.parametrize("switch", TURNED)
def test_a_switch_gives_the_pairs_of_a_profile_with_that_value(
    switch: str, profile: dict[str, Any], record: dict[str, Any], tmp_path: Path
) -> None:
    turned = copy.deepcopy(profile)
    turned |= {"data": str(tmp_path / "data"), "work": str(tmp_path / "work"), "profile": str(tmp_path / "params.yaml")}
    for section, name, value in TURNED[switch]:
        turned[section][name] = value
    run_stages(turned, *UP_TO_PAIRS)
    ours = read_table(Path(profile["data"]) / f"variants/{switch}.h5", "pairs")
    alone = read_table(tmp_path / "data/pairs/vit.h5", "pairs")
    assert ours.columns.keys() == alone.columns.keys()
    for name, column in alone.columns.items():
        assert np.array_equal(ours[name], column), name
    base = read_table(Path(profile["data"]) / "pairs/vit.h5", "pairs")
    assert any(not np.array_equal(base[name], column) for name, column in alone.columns.items()), "it changes something"


def test_only_what_depends_on_a_switch_is_computed(profile: dict[str, Any], record: dict[str, Any]) -> None:
    images = 2
    computed = record["computed"]
    # box and fill: local features; antialias and preprocess: local and global features.
    assert computed["images"] == 4 * images
    assert computed["sentences"] == 0
    parse = read_table(Path(profile["data"]) / "parse.h5", "parse", ("sentence", "noun_phrase"))
    assert computed["strings"] == len(TEMPLATES) * len({*parse["sentence"], *parse["noun_phrase"]})
    again = run_stages(profile, "variants")["variants"]
    assert again["computed"]["images"] == 0


def test_every_switch_is_scored(profile: dict[str, Any], record: dict[str, Any]) -> None:
    run_stages(profile, "score", "ablations")
    found = json.loads((Path(profile["data"]) / "ablations.json").read_text())
    metrics = data_sets(Path(profile["metrics"]))["refshapes"]
    rows = {(row["name"], row["split"]): row for row in found["differences"]}
    assert {name for name, _ in rows} == {"as configured", "empty", *SWITCHES}
    for split in ("testA", "testB"):
        ours = metrics[split]["global_local"]
        assert (rows["as configured", split]["oiou"], rows["as configured", split]["n"]) == (ours["oiou"], ours["n"])
        assert rows["empty", split]["miou"] == ours["skip"]["miou"]
    tried = [row for row in found["ablations"] if row["name"] == "template"]
    settings = [f'template = "{template}"' for template in TEMPLATES]
    assert [(row["setting"], row["split"]) for row in tried] == [(s, x) for s in settings for x in ("testA", "testB")]
    for number, own in enumerate((tried[:2], tried[2:]), 1):
        table = load_pairs(Path(profile["data"]) / f"variants/template{number}.h5", profile["score"]["k"])[0]
        scores = table.dots.scores(profile["score"]["alpha"], profile["score"]["beta"])
        outcome = table.outcome(first_best(scores, table.offsets))
        expected = [outcome.at(table.members(group)).iou.mean() for group in range(2)]
        assert [row["miou"] for row in own] == pytest.approx(expected, rel=1e-9)
    assert {name: rows[name, "testA"]["release"] for name in ("polygon_overlap", "box", "empty", "release")} == {
        "polygon_overlap": True,
        "box": False,
        "empty": True,
        "release": True,
    }


def test_a_table_of_another_run_is_refused(profile: dict[str, Any], record: dict[str, Any], tmp_path: Path) -> None:
    shutil.copytree(Path(profile["data"]) / "variants", tmp_path / "data/variants")
    with changed(tmp_path / "data/variants/variants.json") as content:
        content["pairs"] = "0" * 64
    (tmp_path / "data/pairs").mkdir()
    shutil.copy(Path(profile["data"]) / "pairs/vit.h5", tmp_path / "data/pairs/vit.h5")
    other = profile | {"data": str(tmp_path / "data"), "profile": str(tmp_path / "params.yaml")}
    with pytest.raises(StoreError, match="another pair table"):
        run_stages(other, "ablations")


def test_a_switch_s_table_of_another_run_is_refused(
    profile: dict[str, Any], record: dict[str, Any], tmp_path: Path
) -> None:
    shutil.copytree(Path(profile["data"]) / "variants", tmp_path / "data/variants")
    (tmp_path / "data/pairs").mkdir()
    shutil.copy(Path(profile["data"]) / "pairs/vit.h5", tmp_path / "data/pairs/vit.h5")
    other = profile | {"data": str(tmp_path / "data"), "profile": str(tmp_path / "params.yaml")}
    for name, source in (("box", "fill"), ("template1", "template2")):
        file = tmp_path / f"data/variants/{name}.h5"
        kept = file.read_bytes()
        shutil.copy(tmp_path / f"data/variants/{source}.h5", file)
        with pytest.raises(StoreError, match=rf"{name}\.h5: is not the table that variants\.json lists; .*variants"):
            run_stages(other, "ablations")
        file.write_bytes(kept)


def test_masks_of_a_file_are_a_source(profile: dict[str, Any], tmp_path: Path) -> None:
    """The annotated objects as COCO results, by a name with a space, score as source instances does; half of them do not."""
    objects = json.loads((Path(profile["index"]["annotations"]) / "refshapes/instances.json").read_text())[
        "annotations"
    ]
    read = [{"image_id": each["image_id"], "segmentation": each["segmentation"], "score": 0.5} for each in objects]
    (tmp_path / "their masks").mkdir()
    (tmp_path / "their masks/all of them.json").write_text(json.dumps(read))
    (tmp_path / "their masks/half.json").write_text(json.dumps(read[::2]))
    other = copy.deepcopy(profile)
    other |= {"data": str(tmp_path / "data"), "profile": str(tmp_path / "params.yaml")}
    shutil.copytree(profile["data"], tmp_path / "data")
    other["variants"] = {
        "switches": [], "templates": [], "folder": str(tmp_path / "their masks"),
        "sources": ["instances", "all of them.json", "half.json"],
    }  # fmt: skip
    computed = run_stages(other, "variants", "score", "ablations")["variants"]["computed"]
    assert computed["images"] == 2 * 2, "the same masks, from wherever, are embedded once"
    found = json.loads((tmp_path / "data/ablations.json").read_text())["ablations"]
    by_source = {(row["setting"], row["split"]): row for row in found if row["name"] == "masks"}
    assert {setting for setting, _ in by_source} == {f"source = {name}" for name in other["variants"]["sources"]}
    for split in ("testA", "testB"):
        true, same, half = (by_source[f"source = {name}", split] for name in other["variants"]["sources"])
        assert (same["oiou"], same["miou"], same["n"]) == (true["oiou"], true["miou"], true["n"])
        assert half != same


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("gone.json", r"variants.sources: expected instances, or the name of a file .*masks, got 'gone.json'"),
        ("masks", "masks reads a file: expected instead the name of that file in variants.folder"),
        ("../x.json", "or the name of a file or folder of masks in variants.folder, got '../x.json'"),
        ("/x.json", "got '/x.json'"),
        ("", "got ''"),
    ],
)
def test_masks_that_are_not_there_are_refused(profile: dict[str, Any], tmp_path: Path, name: str, said: str) -> None:
    other = copy.deepcopy(profile) | {"profile": str(tmp_path / "params.yaml")}
    other["variants"] = {"switches": [], "templates": [], "sources": [name]}
    with pytest.raises(ParameterError, match=said):
        run_stages(other, "variants")


@pytest.mark.parametrize("source", ["index", "proposals", "mask_features"])
def test_the_pair_table_of_another_run_is_refused(
    profile: dict[str, Any], record: dict[str, Any], tmp_path: Path, source: str
) -> None:
    """A pairs.h5 under the right name, made from other tables than the profile's."""
    data = tmp_path / "data"
    shutil.copytree(Path(profile["data"]), data)
    pairs = read_table(data / "pairs/vit.h5", "pairs")
    made_from = {**pairs.attrs["made_from"], source: "0" * 64}
    own = {"schema", "version", "columns", "digest", "made_from", "config"}
    attrs = {name: value for name, value in pairs.attrs.items() if name not in own}
    write_table(data / "pairs/vit.h5", "pairs", pairs.columns, {}, made_from, **attrs)
    other = profile | {"data": str(data), "profile": str(tmp_path / "params.yaml")}
    other["variants"] = {"switches": [], "templates": TEMPLATES}
    with pytest.raises(
        StoreError, match=rf"vit\.h5 was made from another {source} than the profile has; run stage pair"
    ):
        run_stages(other, "variants")


def test_a_template_without_a_place_for_the_text_is_refused(profile: dict[str, Any]) -> None:
    wrong = copy.deepcopy(profile)
    wrong["variants"]["templates"] = ["a photo"]
    with pytest.raises(ParameterError, match=r"variants.templates.*expected exactly one \{\}"):
        run_stages(wrong, "variants")
    Path(profile["profile"]).write_text(yaml.safe_dump(profile))
