"""``glimpse export`` into folders: PNG masks, and the folder that FiftyOne imports as COCO detections."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from pipeline.exports import masks
from pipeline.exports.predictions import predictions
from store.errors import ParameterError, StoreError
from store.table import read_table
from tests.helpers.results import MISSING, folder_of, glimpse, results_run, rows_of
from tests.helpers.stores import GROUPS, Synthetic


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Synthetic:
    return results_run(tmp_path_factory.mktemp("run"))


def chosen_of(made: Synthetic, name: str) -> list[int]:
    rows: list[int] = read_table(made.paths["scores"], "scores")[f"chosen.{name}"].tolist()
    return rows


def test_a_png_for_each_expression(made: Synthetic, tmp_path: Path) -> None:
    said = glimpse(made, "export", "--format", "masks", "--rule", "second:global", "--out", tmp_path / "masks").output
    chosen, rows = chosen_of(made, "second:global"), rows_of(tmp_path / "masks/masks.json")
    assert len(rows) == len(made.ref)
    for e, row in enumerate(rows):
        image = made.image_of(e)
        dataset, split = GROUPS[made.ref_group[made.ref[e]]]
        assert row["file"] == f"{dataset}/{split}/{1000 + e}.png"
        with Image.open(tmp_path / "masks" / row["file"]) as picture:
            assert (picture.mode, picture.format) == ("L", "PNG")
            pixels = np.asarray(picture)
        expected = made.proposals[image][chosen[e]] if chosen[e] >= 0 else np.zeros(pixels.shape, np.bool_)
        assert (pixels == 255 * expected).all()
        assert (row["score"] is None) == (chosen[e] < 0)
    written = {path.relative_to(tmp_path / "masks").as_posix() for path in (tmp_path / "masks").rglob("*.png")}
    assert written == {row["file"] for row in rows}
    assert f"{len(rows)} masks of rule second:global" in said
    with pytest.raises(ParameterError, match="expected a folder that is new or empty"):
        glimpse(made, "export", "--format", "masks", "--out", tmp_path / "masks")


@pytest.mark.parametrize(
    ("change", "files"),
    [
        ({"dataset": "../up", "split": ".."}, "..%2Fup/%2E%2E/"),
        ({"dataset": "a/b", "split": "val"}, "a%2Fb/val/"),
        ({"dataset": "refcoco+", "split": "test A"}, "refcoco+/test A/"),
    ],
)
def test_names_stay_below_the_folder(
    made: Synthetic, change: dict[str, str], files: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def renamed(*arguments: Any) -> list[Any]:
        return [dataclasses.replace(each, **change) for each in predictions(*arguments)]

    monkeypatch.setattr(masks, "predictions", renamed)
    glimpse(made, "export", "--format", "masks", "--out", tmp_path / "deep/masks")
    for row in rows_of(tmp_path / "deep/masks/masks.json"):
        assert row["file"].startswith(files)
        assert (tmp_path / "deep/masks" / row["file"]).is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["deep"]
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["masks"]


def test_an_image_without_a_size_and_ids_that_repeat(
    made: Synthetic, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsized(*arguments: Any) -> list[Any]:
        found = predictions(*arguments)
        return [dataclasses.replace(found[0], height=0, width=0, mask=b"0", proposal=-1), *found[1:]]

    monkeypatch.setattr(masks, "predictions", unsized)
    said = glimpse(made, "export", "--format", "masks", "--out", tmp_path / "masks").output
    assert "note: 1 expressions have no mask: the size of their image is not known" in said
    assert [row["file"] is None for row in rows_of(tmp_path / "masks/masks.json")[:2]] == [True, False]
    monkeypatch.setattr(
        masks,
        "predictions",
        lambda *arguments: [dataclasses.replace(p, expression_id=5) for p in predictions(*arguments)],
    )
    with pytest.raises(StoreError, match=r"expected distinct expression ids within .* found 5 twice"):
        glimpse(made, "export", "--format", "masks", "--out", tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_the_folder_that_fiftyone_imports(made: Synthetic, tmp_path: Path) -> None:
    """Held against what the form of COCO detections asks for, since FiftyOne is not at hand."""
    out = tmp_path / "fiftyone"
    said = glimpse(made, "export", "--format", "fiftyone", "--out", out).output
    chosen = chosen_of(made, "global_local")
    labels, truth = (json.loads((out / name).read_text()) for name in ("labels.json", "truth.json"))
    assert labels["images"] == truth["images"]
    by_id = {image["id"]: image for image in labels["images"]}
    assert len(by_id) == len(labels["images"]) == len(made.proposals) - 1, "all but the image without a file"
    assert {image["file_name"] for image in labels["images"]} == {path.name for path in (out / "data").iterdir()}
    for image in labels["images"]:
        copy, source = (Image.open(file) for file in (out / "data" / image["file_name"], images(made) / image["image"]))
        assert copy.size == (image["width"], image["height"])
        assert copy.tobytes() == source.tobytes()
    shown = [e for e in range(len(made.ref)) if made.image_of(e) != MISSING]
    expected = {
        "labels.json": {1000 + e: made.proposals[made.image_of(e)][chosen[e]] for e in shown if chosen[e] >= 0},
        "truth.json": {1000 + e: mask for e in shown if (mask := made.truth[made.ref[e]]) is not None and mask.any()},
    }
    for name, content in (("labels.json", labels), ("truth.json", truth)):
        rows = content["annotations"]
        assert [row["id"] for row in rows] == list(range(1, len(rows) + 1))
        assert [row["expression_id"] for row in rows] == list(expected[name])
        for row in rows:
            mask = expected[name][row["expression_id"]]
            assert (coco.decode(row["segmentation"]) == mask).all()
            ys, xs = np.nonzero(mask)
            assert row["bbox"] == [xs.min(), ys.min(), np.ptp(xs) + 1, np.ptp(ys) + 1]
            assert row["area"] == mask.sum()
            assert by_id[row["image_id"]]["image"] == row["image"]
            assert row["category_id"] in {category["id"] for category in content["categories"]}
    left = rows_of(out / "left_out.json")
    for name, held in expected.items():
        absent = [row for row in left if row["file"] == name]
        assert {row["expression_id"] for row in absent} == {1000 + e for e in range(len(made.ref))} - set(held)
        assert all(row["reason"] for row in absent)
    assert any("bild_2_é.png" in row["reason"] for row in left)
    assert f"note: {len(left)} entries that these files cannot hold" in said


def test_an_image_of_another_size_is_left_out(made: Synthetic, tmp_path: Path) -> None:
    file = images(made) / "bild_0_é.png"
    kept = file.read_bytes()
    try:
        Image.new("RGB", (31, 30)).save(file)
        glimpse(made, "export", "--format", "fiftyone", "--out", tmp_path / "out")
    finally:
        file.write_bytes(kept)
    left = rows_of(tmp_path / "out/left_out.json")
    assert any(row["image"] == file.name and "found (30, 31)" in row["reason"] for row in left)
    assert not [path for path in (tmp_path / "out/data").iterdir() if path.name.endswith(file.name)]


def images(made: Synthetic) -> Path:
    return folder_of(made) / "images"
