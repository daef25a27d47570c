"""Masks of annotated objects, against a plain-loop decoder and pycocotools' rasterising of single polygons."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as coco

from stages.datasets.ground_truth import annotation_mask_rle, rle_counts
from store.errors import DataError
from store.segmentation import encode

SQUARE = [2.0, 1.0, 6.0, 1.0, 6.0, 4.0, 2.0, 4.0]  # columns 2 to 5, rows 1 to 3
LATER = [4.0, 2.0, 9.0, 2.0, 9.0, 6.0, 4.0, 6.0]  # columns 4 to 8, rows 2 to 5
APART = [10.0, 0.0, 12.0, 0.0, 12.0, 2.0, 10.0, 2.0]
H, W = 8, 14


def _runs(counts: bytes) -> list[int]:
    """COCO's string code, one character after another."""
    runs: list[int] = []
    position = 0
    while position < len(counts):
        value, shift, more = 0, 0, True
        while more:
            digit = counts[position] - 48
            value |= (digit & 31) << shift
            more, shift, position = bool(digit & 32), shift + 5, position + 1
            if not more and digit & 16:
                value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
    return runs


def _dense(rle: Any) -> np.ndarray:
    """Pixels column by column, by turns outside and inside."""
    height, width = rle["size"]
    mask = np.zeros(height * width, bool)
    at, inside = 0, False
    for run in _runs(rle["counts"]):
        mask[at : at + run] = inside
        at, inside = at + run, not inside
    assert at == height * width
    return mask.reshape(width, height).T


def _box(x1: int, y1: int, x2: int, y2: int) -> np.ndarray:
    mask = np.zeros((H, W), bool)
    mask[y1:y2, x1:x2] = True
    return mask


def _uncompressed(mask: np.ndarray) -> list[int]:
    runs, value = [0], False
    for pixel in mask.T.ravel():
        if pixel != value:
            runs.append(0)
            value = pixel
        runs[-1] += 1
    return runs


def test_the_oracle_reads_pycocotools() -> None:
    mask = np.random.default_rng(0).random((30, 40)) < 0.4
    np.testing.assert_array_equal(_dense({"size": [30, 40], "counts": encode(mask[None])[0]}), mask)


def test_polygons() -> None:
    first, second = _box(2, 1, 6, 4), _box(4, 2, 9, 6)
    for overlap in ("union", "reference"):
        rle = annotation_mask_rle([SQUARE], H, W, overlap)
        assert rle["size"] == [H, W]
        assert isinstance(rle["counts"], bytes)
        np.testing.assert_array_equal(_dense(rle), first)
    np.testing.assert_array_equal(_dense(annotation_mask_rle([SQUARE, LATER], H, W)), first | second)
    np.testing.assert_array_equal(_dense(annotation_mask_rle([SQUARE, LATER], H, W, "reference")), first ^ second)
    three = [SQUARE, LATER, SQUARE]  # under three parts is not one, either
    np.testing.assert_array_equal(_dense(annotation_mask_rle(three, H, W, "reference")), second & ~first)
    apart = _dense(annotation_mask_rle([SQUARE, APART], H, W, "reference"))
    np.testing.assert_array_equal(apart, first | _box(10, 0, 12, 2))


_POINTS = st.lists(st.tuples(st.floats(-3, 17), st.floats(-3, 11)), min_size=3, max_size=7)


@settings(max_examples=200, deadline=None)
@given(st.lists(_POINTS, min_size=1, max_size=4))
def test_polygons_equal_the_sum_of_single_ones(shapes: list[list[tuple[float, float]]]) -> None:
    polygons = [[number for point in shape for number in point] for shape in shapes]
    layers = sum(_dense(coco.frPyObjects([polygon], H, W)[0]).astype(int) for polygon in polygons)
    np.testing.assert_array_equal(_dense(annotation_mask_rle(polygons, H, W)), layers > 0)
    np.testing.assert_array_equal(_dense(annotation_mask_rle(polygons, H, W, "reference")), layers == 1)


@settings(max_examples=200, deadline=None)
@given(st.tuples(st.integers(1, 9), st.integers(1, 9)).flatmap(lambda size: arrays(bool, (2, *size))))
def test_run_lengths(masks: np.ndarray) -> None:
    height, width = masks.shape[1:]
    size = [height, width]
    forms = []
    for mask, counts in zip(masks, encode(masks), strict=True):
        runs = _uncompressed(mask)
        split = [part for run in runs for part in ((run, 0, 0) if run == 0 else (1, 0, run - 1))]  # runs of 0 pixels
        same = [
            {"size": size, "counts": runs},
            {"size": tuple(size), "counts": [*split, 0, 0]},
            {"size": size, "counts": counts},
            {"size": size, "counts": counts.decode()},
        ]
        for form in same:
            for overlap in ("union", "reference"):
                rle = annotation_mask_rle(form, height, width, overlap)
                assert rle == {"size": size, "counts": counts}  # canonical, whatever came
        assert rle_counts(counts).tolist() == runs == _runs(counts)
        forms.append(same)
    several = [forms[0][0], forms[1][2]]
    np.testing.assert_array_equal(_dense(annotation_mask_rle(several, height, width)), masks[0] | masks[1])
    np.testing.assert_array_equal(_dense(annotation_mask_rle(several, height, width, "reference")), masks[0] ^ masks[1])


@given(st.lists(st.integers(0, 2**24 - 1), min_size=1, max_size=8))
def test_large_runs_are_read_back(runs: list[int]) -> None:
    counts = coco.frPyObjects({"size": [1, 1], "counts": runs}, 1, 1)["counts"]
    assert rle_counts(counts).tolist() == runs


def test_result_does_not_depend_on_unusable_parts() -> None:
    bad: list[Any] = [
        [],
        [1.0, 1.0],
        [1, 1, 5, 5],
        [*SQUARE, 3.0],
        ["a"] * 6,
        [float("nan")] * 6,
        [1e9] * 6,
        [10**400] * 6,
    ]
    bad += [None, 5, "ab", {"size": [H, W]}, [[1, 1], [2, 2], [3, 3]]]
    reasons: list[str] = []
    rle = annotation_mask_rle([*bad, SQUARE], H, W, skipped=reasons)
    assert rle == annotation_mask_rle([SQUARE], H, W)
    assert [reason.split(":")[0] for reason in reasons] == [f"segmentation part {row}" for row in range(len(bad))]
    assert "3 or more points" in reasons[1]
    assert "near the image" in reasons[5]
    for part in bad:
        with pytest.raises(DataError, match="segmentation part 0"):
            annotation_mask_rle([part], H, W)


def test_a_thin_polygon_is_an_empty_mask() -> None:
    rle = annotation_mask_rle([[3.1, 3.1, 3.2, 3.1, 3.2, 3.2]], H, W)
    assert not _dense(rle).any()
    assert coco.area(rle) == 0


@pytest.mark.parametrize("segmentation", [None, [], {}, 5, "abc", (), [None]])
def test_no_segmentation(segmentation: object) -> None:
    with pytest.raises(DataError):
        annotation_mask_rle(segmentation, H, W)


@pytest.mark.parametrize(
    ("rle", "reason"),
    [
        ({"size": [W, H], "counts": [H * W]}, "size"),
        ({"size": [H], "counts": [H * W]}, "size"),
        ({"counts": [H * W]}, "size"),
        ({"size": [H, W]}, "counts"),
        ({"size": [H, W], "counts": []}, "got 0"),
        ({"size": [H, W], "counts": [H * W - 1]}, "got 111"),
        ({"size": [H, W], "counts": [H * W, 1]}, "got 113"),
        ({"size": [H, W], "counts": [H * W + 5, -5]}, "0 or more"),
        ({"size": [H, W], "counts": [2**70]}, "112 in all"),
        ({"size": [H, W], "counts": [1.5, 110.5]}, "list of integers"),
        ({"size": [H, W], "counts": b""}, "damaged"),
        ({"size": [H, W], "counts": b"o"}, "damaged"),  # its last digit says that more follow
        ({"size": [H, W], "counts": b"oooooooo0"}, "damaged"),
        ({"size": [H, W], "counts": "zé"}, "damaged"),
        ({"size": [H, W], "counts": b"0\x00"}, "damaged"),
        ({"size": [H, W], "counts": b"d0"}, "112 in all"),
    ],
)
def test_damaged_run_lengths(rle: dict[str, Any], reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        annotation_mask_rle(rle, H, W)


@given(st.binary(max_size=12) | st.text(max_size=12))
def test_any_string_is_a_mask_or_an_error(counts: bytes | str) -> None:
    try:
        rle = annotation_mask_rle({"size": [3, 4], "counts": counts}, 3, 4)
    except DataError:
        return
    assert _dense(rle).shape == (3, 4)


@pytest.mark.parametrize("size", [(0, 5), (5, 0), (-1, 5), (2**13, 2**13)])
def test_no_image_size(size: tuple[int, int]) -> None:
    with pytest.raises(DataError, match="image of 1 to"):
        annotation_mask_rle([SQUARE], *size)
