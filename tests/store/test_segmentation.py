"""Run-length masks, against loops written from the format's description."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from pycocotools import mask as coco

from store import segmentation as masks


def runs_of(mask: NDArray[np.bool_]) -> list[int]:
    """Run lengths, column by column, starting with background: COCO's uncompressed counts."""
    counts, value = [0], False
    for x in range(mask.shape[1]):
        for y in range(mask.shape[0]):
            if bool(mask[y, x]) != value:
                counts.append(0)
                value = not value
            counts[-1] += 1
    return counts


def compressed(runs: list[int]) -> bytes:
    """COCO's compressed counts: from the fourth run on the difference to the run two before; groups of five bits,
    lowest first, one more bit for "there is more", offset 48; the last group carries the sign."""
    out = bytearray()
    for i, run in enumerate(runs):
        value = run - runs[i - 2] if i > 2 else run
        more = True
        while more:
            group, value = value & 31, value >> 5
            more = value != (-1 if group & 16 else 0)
            out.append(48 + (group | (32 if more else 0)))
    return bytes(out)


SHAPES = st.tuples(st.integers(0, 3), st.integers(1, 8), st.integers(1, 8))


@settings(deadline=None)
@given(SHAPES.flatmap(lambda shape: arrays(bool, shape)))
def test_masks_against_loops(stack: NDArray[np.bool_]) -> None:
    counts = masks.encode(stack)
    assert counts == [compressed(runs_of(mask)) for mask in stack]
    decoded = masks.decode(counts, *stack.shape[1:])
    assert decoded.dtype == np.bool_
    np.testing.assert_array_equal(decoded, stack)
    areas = masks.areas(iter(counts), *stack.shape[1:])
    assert areas.dtype == np.int64
    assert areas.tolist() == [sum(bool(v) for row in mask for v in row) for mask in stack]


@pytest.mark.parametrize("size", [(1, 1), (480, 640), (7, 2000)])
def test_empty_and_full_masks(size: tuple[int, int]) -> None:
    stack = np.stack([np.zeros(size, bool), np.ones(size, bool)])
    total = size[0] * size[1]
    counts = masks.encode(stack)
    assert counts == [compressed([total]), compressed([0, total])]
    assert masks.areas(counts, *size).tolist() == [0, total]
    np.testing.assert_array_equal(masks.decode(counts, *size), stack)
    assert masks.as_rle(counts[0], *size) == {"size": list(size), "counts": counts[0]}


@given(
    small=arrays(np.bool_, st.tuples(st.integers(0, 3), st.integers(1, 6), st.integers(1, 6))),
    scale=st.tuples(st.integers(1, 90), st.integers(1, 90)),
)
def test_occupied_columns_and_rows(small: NDArray[np.bool_], scale: tuple[int, int]) -> None:
    """Scaled up, so that runs, and their differences of either sign, take one to three digits."""
    dense = np.kron(small, np.ones((1, *scale), np.bool_)).astype(np.bool_)
    columns, rows = masks.occupied(masks.encode(dense), *dense.shape[1:])
    np.testing.assert_array_equal(columns, dense.any(1))
    np.testing.assert_array_equal(rows, dense.any(2))


@given(st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=9), max_size=4), st.integers(1, 7))
def test_occupied_by_any_runs_also_of_no_pixel(all_runs: list[list[int]], height: int) -> None:
    """Some writers leave in runs of 0 pixels; an odd or even number of runs, from the first pixel or to the last one."""
    width = -(-max((sum(runs) for runs in all_runs), default=1) // height) + 1
    columns, rows = masks.occupied([compressed(runs) for runs in all_runs], height, width)
    for of_mask, runs in enumerate(all_runs):
        flat = [position % 2 == 1 for position, run in enumerate(runs) for _ in range(run)]
        pixels = [divmod(at, height) for at, inside in enumerate(flat) if inside]
        assert set(np.flatnonzero(columns[of_mask])) == {x for x, _ in pixels}
        assert set(np.flatnonzero(rows[of_mask])) == {y for _, y in pixels}


@settings(deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=12), st.integers(1, 5))
def test_runs_that_touch_are_one(runs: list[int], height: int) -> None:
    """Counts with runs of 0 pixels, as other writers may leave them, decode as pycocotools decodes them."""
    width = sum(runs) // height + 1
    runs = [*runs, height * width - sum(runs)]
    found = masks.decode([compressed(runs)] * 2, height, width)
    expected = coco.decode(masks.as_rle(compressed(runs), height, width))
    np.testing.assert_array_equal(found, np.stack([expected, expected]).astype(bool))
