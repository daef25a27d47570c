"""What is wrong with one file or row of masks costs that one, whatever the form, and says why."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from store.errors import DataError
from tests.helpers.mask_files import (
    IDS,
    MASKS,
    NAMES,
    amg_list,
    coco,
    rows,
    write_amg,
    write_arrays,
    write_json,
    write_lines,
    write_yolo,
)
from tests.helpers.proposal_files import SIZE, Project, check


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def write_bad_array(path: Path, **arrays: Any) -> None:
    np.savez(path, **arrays)


LARGE = np.ones((1, 9, 6), np.bool_)
GOOD = np.ones((2, *SIZE), np.bool_)
BAD_FILES: list[tuple[str, str, Callable[[Path], Any], str]] = [
    ("size", "one.npz", lambda p: write_bad_array(p, masks=LARGE), "6 x 9 (height x width) as the image has, got 9 x 6"),
    ("no masks", "one.npz", lambda p: write_bad_array(p, mask=GOOD), "expected an array masks (N, H, W), found mask"),
    ("floats", "one.npz", lambda p: write_bad_array(p, masks=GOOD * 0.5), "expected (N, H, W) of bool or of 0 and 1"),
    ("numbers", "one.npz", lambda p: write_bad_array(p, masks=GOOD.astype(np.uint8) * 255), "got uint8 (2, 6, 9)"),
    ("one score", "one.npz", lambda p: write_bad_array(p, masks=GOOD, scores=[0.5]), "scores: expected 2 numbers"),
    ("pickle", "one.npz", lambda p: write_bad_array(p, masks=np.array([{}, 1], object)), "without unpickling"),
    ("cut", "one.npz", lambda p: p.write_bytes(b"PK\x03\x04cut"), "not an archive of arrays"),
    ("nothing", "one.npz", lambda p: p.write_bytes(b""), "not an archive of arrays"),
    ("cut", "one/0.png", lambda p: p.write_bytes(p.read_bytes()[:60]), "not a picture that Pillow can read"),
    ("lost", "one/0.png", Path.unlink, "not a picture that Pillow can read"),
    ("size", "one/0.png", lambda p: Image.new("L", (3, 4), 255).save(p), "as the image has, got 4 x 3"),
    ("colours", "one/0.png", lambda p: Image.new("RGB", (9, 6)).save(p), "got a picture of mode RGB"),
    ("empty", "one/0.png", lambda p: Image.new("L", (9, 6)).save(p), "the mask has no pixel"),
    ("unlisted", "one/77.png", lambda p: Image.new("L", (9, 6), 255).save(p), "no row of metadata.csv has its id"),
    ("no score", "one/metadata.csv", lambda p: p.write_text("id,predicted_iou\n0,\n1,nan\n"), "score: expected a finite"),
    ("climbs", "one/metadata.csv", lambda p: p.write_text("id,predicted_iou\n../one/0,1\n"), "expected an id, the name"),
    ("bytes", "one/metadata.csv", lambda p: p.write_bytes(b"\xff\xfe\x00"), "metadata.csv: cannot be read"),
    ("no JSON", "one.json", lambda p: p.write_text("[1,"), "this is no JSON"),
    ("a number", "one.json", lambda p: p.write_text("5"), "expected a mask or a list of masks, got int 5"),
    ("no mask", "one.json", lambda p: p.write_text('[{"predicted_iou": 1}]'), "expected polygons or an RLE"),
    ("scores", "one.json", lambda p: p.write_text('{"masks": [{}], "scores": []}'), "scores: expected a list of 1 numbers"),
    ("box", "one.txt", lambda p: p.write_text("0 0.5 0.5 0.2 0.2\n"), "got 5 numbers (class and box only"),
    ("pixels", "one.txt", lambda p: p.write_text("0 10 10 50 10 50 50\n"), "expected shares of the image, from 0 to 1"),
    ("words", "one.txt", lambda p: p.write_text("0 nowhere\n"), "expected class x y x y x y ... [score], got other text"),
    ("NaN", "one.txt", lambda p: p.write_text("0 nan 0 1 0 1 1\n"), "expected shares of the image"),
]  # fmt: skip


def write_good(folder: Path, name: str) -> None:
    """A folder of the form to which the file ``name`` belongs."""
    if name.endswith(".npz"):
        write_arrays(folder, MASKS, scores="")
    elif name.endswith(".txt"):
        write_yolo(folder, {"one": [([0, 0, 1, 0, 1, 1], None)], "three": [([0, 0, 1, 0, 1, 1], None)]})
    elif name.endswith(".json"):
        for stem, masks in MASKS.items():
            write_json(folder / f"{stem}.json", amg_list(masks))
    else:
        write_amg(folder, MASKS)


@pytest.mark.parametrize(
    ("name", "spoil", "reason"), [b[1:] for b in BAD_FILES], ids=[f"{b[1]}-{b[0]}" for b in BAD_FILES]
)
def test_a_bad_file_or_row_is_skipped_with_its_reason(
    project: Project, name: str, spoil: Callable[[Path], Any], reason: str
) -> None:
    project.file = project.folder / "masks"
    write_good(project.file, name)
    if reason.startswith("scores: expected 2"):
        write_arrays(project.file, MASKS)
    spoil(project.file / name)
    table, summary = project.propose()
    assert np.diff(table["image_offsets"])[3] == 1, "the other image's mask is used"
    lines = [line for line in summary.skipped if line.startswith(str(project.file / "one"))]
    assert lines
    assert any(reason in line for line in lines)
    assert any("unusable row" in warning for warning in summary.warnings)
    for other in project.file.rglob("three*"):
        if other.is_file():
            other.unlink()
        else:
            [file.unlink() for file in other.iterdir()]
            other.rmdir()
    if name == "one/0.png" or name == "one/77.png":
        return  # the image has another mask that is good
    with pytest.raises(DataError, match=r"can be used|of such an image|known form"):
        project.propose()


LINES = [
    ("no JSON", b"{cut", "this is no JSON"),
    ("a list of nothing", b"[3]", "expected an object, got int 3"),
    ("another object", b'{"image": 5}', "expected a mask or a list of masks, got dict"),
]


@pytest.mark.parametrize(("line", "reason"), [case[1:] for case in LINES], ids=[case[0] for case in LINES])
def test_a_bad_line_is_skipped_with_its_number(project: Project, line: bytes, reason: str) -> None:
    write_lines(project.file, rows(MASKS, image_id=IDS.__getitem__, file_name=NAMES.__getitem__))
    project.file.write_bytes(project.file.read_bytes() + b"\n" + line + b"\n")
    table, summary = project.propose()
    assert np.diff(table["image_offsets"]).tolist() == [2, 0, 0, 1, 0, 0]
    (said,) = [text for text in summary.skipped if text.startswith(str(project.file))]
    assert said.startswith(f"{project.file} line 5")
    assert reason in said


def test_annotations_of_images_that_the_file_does_not_have(project: Project) -> None:
    value = coco(MASKS)
    value["images"] = value["images"][:1]
    table, summary = project.propose(value)
    assert np.diff(table["image_offsets"]).tolist() == [2, 0, 0, 0, 0, 0]
    (said,) = [text for text in summary.skipped if text.startswith(str(project.file))]
    assert "annotations[2]: image_id: int 2 is not among the file's images" in said


def test_an_image_of_a_coco_file_without_a_name_is_found_by_its_id(project: Project) -> None:
    value = coco({"one": MASKS["one"]})
    value["images"] = [{"id": 11, "height": 6, "width": 9}]
    for annotation in value["annotations"]:
        annotation["image_id"] = 11
    check(project.propose(value)[0], 0, sorted(MASKS["one"], key=lambda scored: -scored[1]))


def test_some_files_with_scores_and_some_without(project: Project) -> None:
    project.file = write_arrays(project.folder / "masks", {"one": MASKS["one"]})
    write_arrays(project.file, {"three": MASKS["three"]}, scores="")
    with pytest.raises(
        DataError, match=r"three\.npz masks\[0\]: expected a score as in other rows, found none \(1 of 3"
    ):
        project.propose()


def test_a_row_of_a_name_of_two_images_is_skipped_with_both(project: Project) -> None:
    project.file = write_arrays(project.folder / "masks", {"two": MASKS["one"], "three": MASKS["three"]})
    _, summary = project.propose()
    said = [line for line in summary.skipped if line.startswith(str(project.file))]
    assert len(said) == 2
    assert all("file_name two may be any of image_id 22 (a/two.png), image_id 33 (b/two.png)" in line for line in said)
