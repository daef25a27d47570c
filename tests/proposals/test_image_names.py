"""Finding the image of a mask by what its generator calls it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from stages.proposals.image_names import ImageNames
from store.errors import DataError

NAMES = ["train2014/COCO_7.jpg", "plain.png", "a/same.jpg", "b/same.jpg", "000000000012.jpg", "v1.2.tif", "12/30.jpg"]
IDS = [7, 8, 9, 10, 500, 11, -1]


@pytest.fixture
def names() -> ImageNames:
    index: Any = {"image_name": NAMES, "image_id": np.array(IDS)}
    return ImageNames(index)


def found(names: ImageNames, file_name: object = None, image_id: object = None) -> list[str]:
    return [NAMES[row] for row in names.named_by(file_name, image_id)[1]]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("train2014/COCO_7.jpg", [0]),
        ("COCO_7.jpg", [0]),  # the index has a folder, the file has none
        ("data/coco/train2014/COCO_7.jpg", [0]),  # and the reverse
        ("train2014/plain.png", [1]),
        ("C:\\data\\train2014\\COCO_7.jpg", [0]),
        ("./plain.png", [1]),
        ("COCO_7", [0]),  # a stem
        ("data/train2014/COCO_7", [0]),
        ("plain.jpg", [1]),  # another form of the same picture
        ("COCO_7.jpg.png", []),
        ("val2014/COCO_7.jpg", []),  # another folder is another image
        ("OCO_7.jpg", []),  # the end of a name is not the end of a path
        ("same.jpg", [2, 3]),
        ("same", [2, 3]),
        ("b/same", [3]),
        ("x/b/same.jpg", [3]),
        ("v1.2", [5]),  # .2 is no extension
        ("v1", []),
        ("000000000012", [4]),
        ("12", [4]),  # the digits of a stem, no id
        ("30", [6]),
        ("7", [0]),  # an id
        ("500", [4]),
        ("", []),
        ("/", []),
        ("-1", []),
    ],
)
def test_a_name_is_whole_or_an_end_either_way_or_a_stem(names: ImageNames, text: str, expected: list[int]) -> None:
    assert found(names, text) == [NAMES[row] for row in expected]
    if text:
        assert found(names, None, text) == [NAMES[row] for row in expected], "image_id may be text, too"
    assert found(names, text, 8) == [NAMES[row] for row in expected], "a file name counts before an id"


@pytest.mark.parametrize(
    ("image_id", "expected"), [(7, [0]), ("7", [0]), (7.0, [0]), (12, [4]), (30, [6]), (-1, []), (10**30, []), (99, [])]
)
def test_an_id_counts_before_the_digits_of_a_stem(names: ImageNames, image_id: object, expected: list[int]) -> None:
    assert found(names, None, image_id) == [NAMES[row] for row in expected]


@pytest.mark.parametrize(("file_name", "image_id"), [(5, 7), (None, None), (None, 1.5), (None, True), (None, [7])])
def test_what_is_no_name_is_an_error(names: ImageNames, file_name: object, image_id: object) -> None:
    with pytest.raises(DataError, match="expected"):
        names.named_by(file_name, image_id)


def test_an_id_and_a_stem_of_the_same_digits() -> None:
    """Data sets number apart: id 8 of one may be the stem of another, and an id is what image_id says."""
    index: Any = {"image_name": ["8.jpg", "other.jpg"], "image_id": np.array([3, 8])}
    names = ImageNames(index)
    assert names.named_by(None, 8)[1] == [1]
    assert names.named_by("8", None)[1] == [0]
