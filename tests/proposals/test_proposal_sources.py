"""Proposals from a list of COCO results, against plain loops over dense masks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from stages.proposals.boxes import RULES
from store.errors import DataError
from tests.helpers.proposal_files import (
    BROKEN,
    NAMES,
    WITH_GAP,
    Project,
    about_file,
    check,
    compressed,
    of_image,
    rectangle,
    row,
    uncompressed,
)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


@pytest.mark.parametrize("rule", RULES)
def test_masks_areas_boxes_and_scores(project: Project, rule: str) -> None:
    table, summary = project.propose([row(11, WITH_GAP, 0.25), row(33, rectangle(1, 2, 3, 4), 0.75)], box=rule)
    check(table, 0, [(WITH_GAP, 0.25)], rule)
    check(table, 2, [(rectangle(1, 2, 3, 4), 0.75)], rule)
    assert table["status"] == ["", "no proposal in rows.json", "", *["no proposal in rows.json"] * 2, "no such file"]
    assert summary.warnings == [
        "3 of 5 images to propose for cannot be used: 3 x no proposals, such as a/two.png: no proposal in rows.json; check "
        "propose.input and the values of propose (source coco), or the image files"
    ]
    assert summary.read == {"images": 6, "rows": 2}
    assert summary.skipped == [f"{n}: {s}" for n, s in zip(NAMES, table["status"], strict=True) if s]


def test_all_forms_of_a_mask_are_equal(project: Project) -> None:
    """Polygons of whole pixels, one RLE of either kind, or a list of RLEs whose union counts."""
    parts = [rectangle(1, 1, 4, 3), rectangle(3, 2, 8, 5)]
    polygons = [[1, 1, 4, 1, 4, 3, 1, 3], [3.0, 2.0, 8.0, 2.0, 8.0, 5.0, 3.0, 5.0]]
    whole = parts[0] | parts[1]
    forms = [polygons, compressed(whole), uncompressed(whole), [compressed(parts[0]), uncompressed(parts[1])]]
    table, _ = project.propose([{**row(11, whole), "segmentation": form} for form in forms])
    check(table, 0, [(whole, 0.5)] * 4)
    assert len(set(table["mask"])) == 1


def test_the_best_come_first_and_equal_scores_keep_the_order_of_the_file(project: Project) -> None:
    scores = [0.5, 0.9, 0.5, -3, 0.9, 7.25, 0.5]
    masks = [rectangle(0, 0, number + 1, 1) for number in range(len(scores))]
    rows = [row(11, mask, score) for mask, score in zip(masks, scores, strict=True)]
    order = [5, 1, 4, 0, 2, 6, 3]
    table, _ = project.propose(rows)
    check(table, 0, [(masks[n], scores[n]) for n in order])
    table, summary = project.propose([*rows, row(22, masks[0])], max_proposals=4)
    check(table, 0, [(masks[n], scores[n]) for n in order[:4]])
    assert about_file(project, summary) == [
        f"{project.file}: 3 of 8 rows are not among the 4 best of their image (max_proposals)"
    ]


def test_without_any_score_the_order_of_the_file_counts(project: Project) -> None:
    masks = [rectangle(0, 0, n, 1) for n in (3, 1, 2)]
    table, summary = project.propose([row(11, mask, None) for mask in masks])
    check(table, 0, [(mask, 1.0) for mask in masks])
    assert about_file(project, summary) == [
        f"{project.file}: no row has a score: all count as 1.0, and the file's order is kept"
    ]
    with pytest.raises(DataError, match=r"rows\.json \[1\]: expected a score as in other rows, found none \(2 of 3"):
        project.propose([row(11, masks[0]), row(11, masks[1], None), row(99, masks[2], None)])


def test_rows_of_other_images_are_counted_in_one_warning(project: Project) -> None:
    mask = rectangle(1, 1, 2, 2)
    rows = [row(9, mask), row(11, mask), row(10**30, mask), row(-1, mask), row(11, mask, file_name="no.png")]
    table, summary = project.propose(rows)
    check(table, 0, [(mask, 0.5)])
    assert about_file(project, summary) == [f"{project.file}: 4 of 5 rows are of images that no chosen data set has"]
    assert not any("rows.json [" in line for line in summary.skipped)


def test_rows_of_an_image_that_cannot_be_used(project: Project) -> None:
    table, summary = project.propose([row(66, rectangle(1, 1, 2, 2)), row(11, rectangle(1, 1, 2, 2))])
    assert of_image(table, BROKEN) == []
    assert table["status"][BROKEN] == "no such file"
    assert about_file(project, summary) == [
        f"{project.file}: 1 of 2 rows are of images that cannot be used (see stage index)"
    ]


def test_an_id_of_two_images_is_refused_unless_the_row_has_a_name(project: Project) -> None:
    mask, small = rectangle(1, 1, 2, 2), rectangle(1, 1, 2, 2, (4, 5))
    rows = [row(44, mask), row(44, mask, file_name="four.png"), row(44, small, file_name="three.png")]
    table, summary = project.propose(rows)
    check(table, 4, [(mask, 0.5)])
    check(table, 3, [(small, 0.5)])
    (line,) = [line for line in summary.skipped if "[0]" in line]
    assert "image_id 44 may be any of image_id 44 (three.png), image_id 44 (four.png); add the whole file_name" in line
    table, _ = project.propose([rows[0], row(11, mask)])
    assert table["status"][3:5] == ["no usable proposal in rows.json, where 1 rows name the image"] * 2


def test_a_file_name_wins_and_may_be_the_end_of_a_name(project: Project) -> None:
    mask = rectangle(1, 1, 2, 2)
    rows = [
        row(22, mask, 0.1, file_name="one.png"),  # the end of a/one.png
        row(22, mask, 0.2, file_name="a/one.png"),
        {"file_name": "b/two.png", "segmentation": compressed(mask), "score": 0.3},
        row(22, mask, 0.4, file_name="two.png"),  # the end of two names
        row(22, mask, 0.5, file_name=None),
    ]
    table, summary = project.propose(rows)
    check(table, 0, [(mask, 0.2), (mask, 0.1)])
    check(table, 1, [(mask, 0.5)])
    check(table, 2, [(mask, 0.3)])
    (line,) = [line for line in summary.skipped if "rows.json [" in line]
    assert "[3]: file_name two.png may be any of" in line


def test_a_part_of_a_mask_that_cannot_be_used_is_named_and_the_rest_counts(project: Project) -> None:
    polygons = [[1, 1, 4, 1, 4, 3, 1, 3], [5, 5]]
    table, summary = project.propose([{**row(11, WITH_GAP), "segmentation": polygons}])
    check(table, 0, [(rectangle(1, 1, 4, 3), 0.5)])
    (line,) = [line for line in summary.skipped if "rows.json [" in line]
    assert "[0]: segmentation part 1: polygon: expected 3 or more points" in line
    assert line.endswith("the rest of the mask is used")


def test_an_image_whose_rows_are_all_malformed_says_so(project: Project) -> None:
    table, _ = project.propose([row(11, WITH_GAP, float("nan")), row(11, WITH_GAP, float("nan")), row(22, WITH_GAP)])
    assert table["status"][0] == "no usable proposal in rows.json, where 2 rows name the image"
    assert table["state"] == ["no proposals", "", *["no proposals"] * 3, "unreadable image"]
    assert table["image_offsets"].tolist() == [0, 0, 1, 1, 1, 1, 1]


def test_a_file_for_other_images_shows_ids_of_both_sides(project: Project) -> None:
    with pytest.raises(DataError) as error:
        project.propose([row(number, WITH_GAP) for number in (1, 1, 2, 3, 4, 5)])
    said = str(error.value)
    assert f"{project.file}: expected" in said
    assert "got 6 rows" in said
    assert "image_id 1, image_id 2, image_id 3, image_id 4 and 1 more" in said
    assert "image_id 11 (a/one.png), image_id 22 (a/two.png)" in said
    assert "propose.input" in said
    with pytest.raises(DataError, match="got 0 rows, none of them of such an image: it has no row"):
        project.propose([])
    with pytest.raises(DataError, match=r"of such an image: .*rows\.json \[0\]: expected an object, got int 3"):
        project.propose([3])


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "this is no JSON"),
        (b'[{"image_id": 11', "this is no JSON"),
        (b"\x80\x02binary", "this is no JSON"),
        (b"[" * 100_000, "this is no JSON"),
        (b'{"annotations": []}', "a JSON list of objects with image_id.*got a value of another form"),
        (b"7", "this is no JSON"),
        (None, "No such file"),
    ],
)
def test_a_file_that_is_none_is_one_error_with_a_remedy(project: Project, data: bytes | None, expected: str) -> None:
    if data is not None:
        project.file.write_bytes(data)
    with pytest.raises(DataError, match=expected) as error:
        project.propose()
    assert str(project.file) in str(error.value)
    assert "propose.input" in str(error.value)
    assert not (project.folder / "proposals.h5").exists()


def test_a_folder_without_masks_is_an_error_with_a_remedy(project: Project) -> None:
    project.file.mkdir()
    with pytest.raises(DataError, match=r"rows\.json: .*correct propose\.input or propose\.source"):
        project.propose(source="freesolo")
    (project.file / ".hidden.json").write_text("[]")
    for source in ("coco", "masks"):
        with pytest.raises(
            DataError, match=r"rows\.json: .*got a folder without such files; name another file or folder"
        ):
            project.propose(source=source)


def test_a_file_with_a_byte_order_mark_is_read(project: Project) -> None:
    project.file.write_bytes(b"\xef\xbb\xbf" + json.dumps([row(11, WITH_GAP)]).encode())
    check(project.propose()[0], 0, [(WITH_GAP, 0.5)])


def test_the_table_says_what_it_was_made_of(project: Project, tmp_path_factory: pytest.TempPathFactory) -> None:
    table, _ = project.propose([row(11, WITH_GAP)])
    digest = table.attrs["config"]["input"]
    assert table.attrs["config"] == {"source": "coco", "box": "reference", "max_proposals": 100, "input": digest}
    again, _ = project.propose([row(11, WITH_GAP)], short_side=32, score_threshold=0.9)
    assert (again.digest, again.attrs) == (table.digest, table.attrs), "FreeSOLO's parameters are not used"
    other, _ = project.propose([row(11, WITH_GAP, 0.25)])
    assert other.attrs["config"]["input"] != digest
    assert not (project.folder / "work").exists(), "no parts"
    instances = Project(tmp_path_factory.mktemp("drawn"), {0: [WITH_GAP]})
    table, _ = instances.propose(source="instances", box="tight")
    assert table.attrs["config"] == {"source": "instances", "box": "tight"}


def test_ids_as_text_or_float_are_taken_for_the_integer_and_noted(project: Project) -> None:
    """000000000022 is how COCO's file names write 22."""
    rows = [row(n, WITH_GAP) for n in ("11", 22.0, "000000000022", 33)]  # type: ignore[arg-type]
    table, summary = project.propose(rows)
    assert np.diff(table["image_offsets"]).tolist() == [1, 2, 1, 0, 0, 0]
    (said,) = about_file(project, summary)
    assert said == f"{project.file}: 3 of 4 rows have no integer as image_id, such as str '11'; taken for the integer"
    for image_id in (11.5, "11.0", "0x11", True, "-11", " 11", "¹¹", 1e300, float("nan")):
        with pytest.raises(DataError, match=r"of such an image|none of 1 rows"):
            project.propose([row(image_id, WITH_GAP)])  # type: ignore[arg-type]


def test_no_image_with_a_proposal_is_an_error(tmp_path: Path) -> None:
    """All rows are good, and of the one image that cannot be used."""
    project = Project(tmp_path)
    with pytest.raises(
        DataError, match=r"none of 5 images to propose for can be used: 5 x no proposals, such as a/one\.png"
    ):
        project.propose([row(66, WITH_GAP)])
    with pytest.raises(
        DataError, match=r"none of 5 images to propose for can be used: 5 x no proposals.*no annotated object"
    ):
        project.propose(source="instances")
