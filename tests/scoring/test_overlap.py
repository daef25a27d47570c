"""Exact overlap counts, against dense boolean arrays and known run lengths."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as coco

from store.errors import DataError
from store.overlap_counts import overlap_counts
from store.segmentation import Rle, as_rle, encode


def _rles(masks: np.ndarray) -> list[Rle]:
    return [as_rle(counts, *masks.shape[1:]) for counts in encode(masks)]


def _oracle(proposals: np.ndarray, truths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    pairs = [[(p & t, p | t) for t in truths] for p in proposals]
    shape = len(proposals), len(truths)
    return tuple(np.array([[pair[k].sum() for pair in row] for row in pairs], np.int64).reshape(shape) for k in (0, 1))  # type: ignore[return-value]


def _check(proposals: np.ndarray, truths: np.ndarray) -> None:
    found, expected = overlap_counts(_rles(proposals), _rles(truths)), _oracle(proposals, truths)
    for got, want in zip(found, expected, strict=True):
        assert got.dtype == np.int64
        np.testing.assert_array_equal(got, want)


@st.composite
def _two_stacks(draw: Any) -> tuple[np.ndarray, np.ndarray]:
    size = draw(st.integers(1, 7)), draw(st.integers(1, 7))
    return tuple(
        draw(
            arrays(bool, (draw(st.integers(0, 4)), *size), elements=st.booleans(), fill=st.booleans())
            | arrays(bool, (draw(st.integers(0, 4)), *size), elements=st.just(draw(st.booleans())))
        )
        for _ in range(2)
    )  # type: ignore[return-value]


@settings(max_examples=300, deadline=None)
@given(_two_stacks())
def test_equals_dense_arrays(stacks: tuple[np.ndarray, np.ndarray]) -> None:
    _check(*stacks)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (4, 5)])
def test_every_pair_of_empty_full_and_single_pixel(size: tuple[int, int]) -> None:
    masks = np.zeros((5, *size), bool)
    masks[1], masks[2, 0, 0], masks[3, -1, -1], masks[4, 0, -1] = True, True, True, True
    _check(masks, masks)


def test_blobs_of_a_photograph() -> None:
    rng = np.random.default_rng(3)
    y, x = np.mgrid[:480, :640]
    masks = np.stack(
        [
            ((y - cy) / a) ** 2 + ((x - cx) * a) ** 2 + 600 * np.sin(x / 9) * np.cos(y / 7) < r * r
            for cy, cx, r, a in rng.uniform((0, 0, 20, 0.5), (480, 640, 220, 2), (14, 4))
        ]
    )
    masks[13] = rng.random((480, 640)) < 0.5
    _check(masks[:10], masks[7:])


def test_exact_in_a_large_image() -> None:
    """16.8 million pixels, where one pixel changes the quotient by 6e-8 only."""
    height, width = 4096, 4095
    total = height * width
    inside = [0, 1, 2, 12345, total // 3, total // 2, total - 1, total]
    rles = [coco.frPyObjects({"size": [height, width], "counts": [total - n, n]}, height, width) for n in inside]
    intersection, union = overlap_counts(rles, rles)
    np.testing.assert_array_equal(intersection, np.minimum.outer(inside, inside))
    np.testing.assert_array_equal(union, np.maximum.outer(inside, inside))


@given(st.integers(0, 2**40), st.integers(0, 2**40))
def test_the_quotient_gives_back_its_integers(intersection: int, rest: int) -> None:
    """The rounding argument itself, far beyond image sizes."""
    union = intersection + rest
    quotient = np.float64(intersection) / np.float64(max(union, 1))
    assert int(np.rint(quotient * np.int64(intersection + union) / (1 + quotient))) == intersection


@pytest.mark.parametrize("shape", [(0, 0), (0, 3), (3, 0)])
def test_no_masks(shape: tuple[int, int]) -> None:
    masks = np.ones((3, 4, 5), bool)
    for counts in overlap_counts(_rles(masks[: shape[0]]), _rles(masks[: shape[1]])):
        assert counts.shape == shape
        assert counts.dtype == np.int64


def test_masks_of_two_images() -> None:
    one, other = np.zeros((1, 4, 5), bool), np.zeros((1, 5, 4), bool)
    one[0, 0, 0] = other[0, 3, 3] = True  # far apart: pycocotools alone would not notice
    with pytest.raises(DataError, match=r"\[4, 5\].*\[5, 4\]"):
        overlap_counts(_rles(one), _rles(other))


@pytest.mark.parametrize(("proposals", "truths"), [(255, 1), (256, 2), (1000, 3), (2, 300)])
def test_any_number_of_masks_of_an_image(proposals: int, truths: int) -> None:
    """SAM proposes hundreds; pycocotools alone stops at 256."""
    generator = np.random.default_rng(proposals)
    _check(generator.random((proposals, 5, 6)) < 0.4, generator.random((truths, 5, 6)) < 0.4)
